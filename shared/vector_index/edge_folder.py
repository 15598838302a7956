"""The engine's folders: who owns one, copies of one, and what is needed for a change of files to last."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path

from shared.errors import ConfigurationError

_COPY_BYTES = 1 << 30
_PUT_AWAY = ".dropped-"  # begins the name of a folder to be removed; no collection may have such a name


class FolderLock:
    """An advisory lock on a folder, held until `release` or the process's end."""

    def __init__(self, folder: Path) -> None:
        """Take it at once.

        Raises:
            ConfigurationError: another process holds it, or the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"cannot use the index folder {folder}: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ConfigurationError(f"the index folder {folder} is in use by process {owner}") from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it back."""
        os.close(self._file)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Make everything below a folder last, and its own name."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)
    _sync(folder.parent)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder of plain files; file systems that can share blocks between copies do. Not synced.

    Raises:
        OSError: it cannot be read or written; what was written is left there.
    """
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        else:
            _copy_file(path, copy)


def write_lasting(path: Path, content: bytes) -> None:
    """Replace a small file at once and make it last."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content)
    _sync(draft)
    os.replace(draft, path)
    _sync(path.parent)


def put_away(folder: Path) -> None:
    """Take a folder's name from it, at once and lastingly; `remove_put_away` removes it, which takes a while."""
    folder.rename(folder.with_name(f"{_PUT_AWAY}{uuid.uuid4().hex}"))
    _sync(folder.parent)


def is_put_away(folder: Path) -> bool:
    """Whether a folder has no name any more."""
    return folder.name.startswith(_PUT_AWAY)


def remove_put_away(data_dir: Path) -> None:
    """Remove the folders that were put away, also those that a kill left."""
    for gone in data_dir.glob(f"{_PUT_AWAY}*"):
        shutil.rmtree(gone, ignore_errors=True)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("xb") as written:
        try:
            while os.copy_file_range(read.fileno(), written.fileno(), _COPY_BYTES):
                pass
        except OSError:  # not between these file systems
            read.seek(0)
            written.seek(0)
            written.truncate()
            shutil.copyfileobj(read, written, 1 << 20)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
