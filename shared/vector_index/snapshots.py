"""Snapshots of the embedded engine's folder: a folder or a .tar file with a manifest of hashes.

    <snapshot>/manifest.json   <snapshot>/<collection>/shard/…

A snapshot is made by the owner (`EdgeOwner.snapshot`), and restored where no owner runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from shared.errors import ConfigurationError, IndexUnavailableError
from shared.vector_index.edge_folder import FolderLock, copy_tree, sync_folder, sync_tree
from shared.vector_index.names import require_name

FORMAT: Final = 1
RESTORING: Final = ".restoring"
"""In a data folder: a restore is under way, or was interrupted."""
_MANIFEST: Final = "manifest.json"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class SnapshotFile(_Kept):
    """One file, by its path within the snapshot."""

    sha256: str
    size_bytes: NonNegativeInt


class SnapshotCollection(_Kept):
    """One collection."""

    name: str
    dim: PositiveInt
    points: NonNegativeInt


class Manifest(_Kept):
    """What a snapshot holds."""

    format: int = FORMAT
    made_at: str
    engine: str
    collections: tuple[SnapshotCollection, ...]
    aliases: dict[str, str]
    files: dict[str, SnapshotFile]


def require_no_restore(data_dir: Path) -> None:
    """Raise ConfigurationError if a restore of a data folder was interrupted."""
    if (data_dir / RESTORING).exists():
        raise ConfigurationError(
            f"a restore of {data_dir} was interrupted: run `similis index restore` again, with --replace"
        )


def start_snapshot(target: Path) -> Path:
    """An empty folder beside `target`, to copy collections into.

    Raises:
        ConfigurationError: `target` is there already or cannot be written.
    """
    if target.exists():
        raise ConfigurationError(f"{target} is there already")
    draft = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot write the snapshot {target}: {error}") from error
    return draft


def finish_snapshot(
    draft: Path, target: Path, collections: Sequence[SnapshotCollection], aliases: Mapping[str, str]
) -> Manifest:
    """Write the manifest, make everything last, and give the snapshot its name; a `.tar` is one file.

    Raises:
        IndexUnavailableError: the disk is full or fails.
    """
    manifest = Manifest(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        engine=f"qdrant-edge-py {version('qdrant-edge-py')}",
        collections=tuple(collections),
        aliases=dict(aliases),
        files={name: _described(draft / name) for name in _files(draft)},
    )
    try:
        (draft / _MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        if target.suffix == ".tar":
            packed = target.with_name(f".{target.name}.new")
            packed.unlink(missing_ok=True)
            packed.touch(mode=0o600)  # it holds pseudonyms
            with tarfile.open(packed, "w") as archive:
                archive.add(draft, arcname=".")
            with packed.open("rb") as file:
                os.fsync(file.fileno())
            packed.rename(target)
            shutil.rmtree(draft)
        else:
            sync_tree(draft)
            draft.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise IndexUnavailableError(f"the snapshot {target} could not be written: {error}") from error
    return manifest


def verified(snapshot: Path) -> Manifest:
    """The manifest of a snapshot's folder whose every file is as it was.

    Raises:
        ConfigurationError: it is damaged, of another format, or no snapshot.
    """
    try:
        manifest = Manifest.model_validate_json((snapshot / _MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{snapshot} is no snapshot of an index: {error}") from error
    if manifest.format != FORMAT:
        raise ConfigurationError(f"{snapshot} is a snapshot of format {manifest.format}, not {FORMAT}")
    for collection in manifest.collections:
        require_name(collection.name)
    found = set(_files(snapshot)) - {_MANIFEST}
    for name in sorted(found ^ set(manifest.files)):
        raise ConfigurationError(f"the snapshot is damaged: {name} is {'not its own' if name in found else 'missing'}")
    for name, expected in manifest.files.items():
        if _described(snapshot / name) != expected:
            raise ConfigurationError(f"the snapshot is damaged: {name} is not as it was")
    return manifest


def restore(snapshot: Path, data_dir: Path, *, replace: bool = False) -> Manifest:
    """Put a snapshot, a folder or a `.tar`, in the place of an index folder that nobody uses.

    Every file is checked, and every collection opened and counted, before anything is replaced.

    Raises:
        ConfigurationError: the snapshot is damaged, the folder is in use, or it holds collections and
            `replace` is false.
        IndexUnavailableError: a collection of it does not open.
    """
    lock = FolderLock(data_dir)
    try:
        draft = data_dir / RESTORING
        staged, unpacked = data_dir / ".staged", data_dir / ".unpacked"
        own = {"owner.lock", *(path.name for path in (draft, staged, unpacked))}
        others = [path for path in data_dir.iterdir() if path.name not in own]
        if (others or draft.exists()) and not replace:
            raise ConfigurationError(f"{data_dir} holds an index: give --replace to lose it, or another folder")
        with _unpacked(snapshot, unpacked) as folder:
            manifest = verified(folder)
            shutil.rmtree(staged, ignore_errors=True)
            try:
                _stage(folder, staged, manifest)
                shutil.rmtree(draft, ignore_errors=True)
                staged.rename(draft)
                sync_folder(data_dir)
            except OSError as error:
                raise ConfigurationError(f"the snapshot could not be copied: {error}") from error
            finally:
                shutil.rmtree(staged, ignore_errors=True)
        # From here on a kill leaves RESTORING, and the owner does not start.
        for path in others:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in draft.iterdir():
            path.rename(data_dir / path.name)
        sync_folder(data_dir)
        draft.rmdir()
        sync_folder(data_dir)
        return manifest
    finally:
        lock.release()


def _stage(snapshot: Path, staged: Path, manifest: Manifest) -> None:
    from shared.vector_index.edge_engine import EdgeEngine

    staged.mkdir(parents=True)
    for collection in manifest.collections:
        copy_tree(snapshot / collection.name, staged / collection.name)
        engine = EdgeEngine(staged / collection.name, dim=collection.dim)
        try:
            if (points := engine.count()) != collection.points:
                raise ConfigurationError(f"{collection.name} holds {points} points, not {collection.points}")
        finally:
            engine.close()
    if manifest.aliases:
        from shared.vector_index.edge_aliases import AliasFile

        aliases = AliasFile(staged)
        for alias, name in manifest.aliases.items():
            aliases.switch(alias, name)
    sync_tree(staged)


@contextmanager
def _unpacked(snapshot: Path, scratch: Path) -> Iterator[Path]:
    if snapshot.is_dir():
        yield snapshot
        return
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        try:
            with tarfile.open(snapshot) as archive:
                archive.extractall(scratch, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise ConfigurationError(f"{snapshot} is no snapshot of an index: {error}") from error
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _described(path: Path) -> SnapshotFile:
    with path.open("rb") as file:
        return SnapshotFile(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size_bytes=path.stat().st_size)
