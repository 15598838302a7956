"""An archive in a local folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.archive.integrity import check_sha256, check_size
from shared.archive.keys import check_key, is_key
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError

_NOT_THERE: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """An archive in a local folder. What is written is fsynced, then named, then the folders of that name are fsynced.

    A file on the same file system is not copied: it gets a second name (a hard link).
    """

    root: Path

    def put(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with _storing(key):
            make_folders(target.parent)
            with _temporary_beside(target) as temporary:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            fsync_folder(target.parent)

    def put_file(self, key: str, path: Path, *, sha256: str | None = None, size_bytes: int | None = None) -> None:
        check_key(key)
        if sha256 is not None or size_bytes is not None:
            with _storing(key):
                _check_file(key, path, sha256, size_bytes)
        self.put_files([(key, path)])

    def put_files(self, items: Iterable[tuple[str, Path]]) -> None:
        # A folder is flushed once, however many of the files lie in it. All above it are flushed too, not only those
        # made here: an earlier call that died may have made them, and their names are not yet on disk.
        folders: dict[Path, str] = {}
        for key, path in items:
            target = self._path(key)
            with _storing(key):
                if target.parent not in folders:
                    make_folders(target.parent)
                    folders |= dict.fromkeys(self._down_from_root(target.parent), key)
                _name(path, target)
        for folder, key in folders.items():
            with _storing(key):
                fsync_folder(folder)

    def get(self, key: str) -> bytes:
        with _reading(key):
            return self._path(key).read_bytes()

    def verify(self, key: str, sha256: str, size_bytes: int) -> None:
        with _reading(key):
            _check_file(key, self._path(key), sha256, size_bytes)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with _reading(key):
            return path.is_file()

    def list(self, prefix: str) -> Iterator[str]:
        prefix = prefix.rstrip("/")
        try:
            yield from _keys_below(self._path(prefix), prefix)
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot list {prefix}: {error.strerror or error}") from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _down_from_root(self, folder: Path) -> tuple[Path, ...]:
        above = (folder, *folder.parents)
        return above[above.index(self.root) :: -1]


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries (a rename, a new file) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storing(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveUnavailableError(f"cannot store {key}: {error.strerror or error}") from error


@contextlib.contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except _NOT_THERE as error:
        raise ArchiveObjectMissingError(f"nothing is archived at {key}") from error
    except OSError as error:
        raise ArchiveUnavailableError(f"cannot read {key}: {error.strerror or error}") from error


def _check_file(key: str, path: Path, sha256: str | None, size_bytes: int | None) -> None:
    with open(path, "rb") as file:
        check_size(key, os.fstat(file.fileno()).st_size, size_bytes)
        if sha256 is not None:
            check_sha256(key, hashlib.file_digest(file, "sha256").hexdigest(), sha256)


def _keys_below(folder: Path, key: str) -> Iterator[str]:
    """Keys in the order of their bytes: one folder's names are in memory at a time, and those above it."""
    try:
        with os.scandir(folder) as entries:
            # "a-b/x" comes before "a/x", so a folder is sorted with the slash that follows its name.
            names = sorted(f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries)
    except _NOT_THERE:
        return
    for name in names:
        below = f"{key}/{name.rstrip('/')}"
        if not is_key(below):
            continue  # a temporary file, or not ours
        if name.endswith("/"):
            yield from _keys_below(folder / name, below)
        else:
            yield below


def make_folders(folder: Path) -> None:
    """Make `folder` and its parents, each new one durable in its parent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        fsync_folder(path.parent)


def _name(source: Path, target: Path) -> None:
    """Give `source`'s content the name `target`, in place of what has it; its folder is still to be fsynced."""
    try:
        os.link(source, target)
        return
    except FileExistsError:
        if source.samefile(target):
            return  # stored by an earlier call
    except OSError:
        pass  # another file system, or one without hard links
    with _temporary_beside(target) as temporary:
        _link_or_copy(source, temporary)
        os.replace(temporary, target)


@contextlib.contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """A name in the target's folder that is gone afterwards, whatever happened."""
    descriptor, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_copy(source: Path, temporary: Path) -> None:
    """Give `source`'s content the name `temporary`, durably: a hard link where one is possible."""
    temporary.unlink()
    try:
        os.link(source, temporary)
        return
    except OSError:
        pass  # another file system, or one without hard links
    shutil.copyfile(source, temporary)
    with open(temporary, "rb") as copy:
        os.fsync(copy.fileno())
