"""The archive: where pixels, manifests, diagnoses and maps live. Events refer to it by key.

instances/<study>/<series>/<sop>.dcm            objects as received
manifests/<study>/<revision>.json               StudyManifest
diagnoses/<study>/<revision>/<task>.json        StudyDiagnosed
explanations/<study>/<revision>/<task>/<sop>-<frame>.{npy,png,json}
explanations/<study>/<revision>/<task>/explained.json   StudyExplained
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError, ConfigurationError

_KEY: Final = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")


def instance_key(study: str, series: str, sop: str) -> str:
    """Key of one SOP instance."""
    return f"instances/{study}/{series}/{sop}.dcm"


def manifest_key(study: str, revision: int) -> str:
    """Key of a study's manifest at one revision."""
    return f"manifests/{study}/{revision}.json"


def diagnosis_key(study: str, revision: int, task: str) -> str:
    """Key of one task's diagnosis of a study's revision."""
    return f"diagnoses/{study}/{revision}/{task}.json"


def explanation_key(study: str, revision: int, task: str, name: str) -> str:
    """Key of something that explains a diagnosis; `name` has the suffix."""
    return f"explanations/{study}/{revision}/{task}/{name}"


@runtime_checkable
class Archive(Protocol):
    """Durable objects by key. Keys are relative paths of `[A-Za-z0-9._-]`; no component starts with a dot."""

    def put(self, key: str, data: bytes) -> None:
        """Store or replace `data` at `key`, durably and atomically.

        Raises:
            ArchiveUnavailableError: it could not be stored; what stood there before still stands.
            ValueError: `key` is not a valid key.
        """

    def put_file(self, key: str, path: Path) -> None:
        """Store the file at `path` under `key`, durably and atomically; `path` stays as it is."""

    def get(self, key: str) -> bytes:
        """The bytes at `key`.

        Raises:
            ArchiveObjectMissingError: nothing is stored there.
            ArchiveUnavailableError: it could not be read just now.
        """

    def exists(self, key: str) -> bool:
        """Whether something is stored at `key`."""

    def list(self, prefix: str) -> Iterator[str]:
        """The keys below the folder `prefix`, sorted."""


def check_key(key: str) -> str:
    """Return `key` if it is one; raise ValueError if it could leave the archive's folder."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not an archive key: {key!r}")
    return key


@dataclass(frozen=True, slots=True)
class LocalArchive:
    """An archive in a local folder. Each write is fsynced, renamed into place, and its folder fsynced."""

    root: Path

    def put(self, key: str, data: bytes) -> None:
        target = self._path(key)
        try:
            _make_folders(target.parent)
            with _temporary_beside(target) as temporary:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            fsync_folder(target.parent)
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot store {key}: {error}") from error

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        try:
            _make_folders(target.parent)
            with _temporary_beside(target) as temporary:
                _link_or_copy(path, temporary)
                os.replace(temporary, target)
            fsync_folder(target.parent)
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot store {key}: {error}") from error

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ArchiveObjectMissingError(f"nothing is archived at {key}") from error
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot read {key}: {error}") from error

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self._path(prefix.rstrip("/"))
        for where, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                if not name.startswith("."):
                    yield (Path(where) / name).relative_to(self.root).as_posix()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)


@dataclass(slots=True)
class MemoryArchive:
    """A working fake for tests."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def put(self, key: str, data: bytes) -> None:
        self.objects[check_key(key)] = bytes(data)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def get(self, key: str) -> bytes:
        try:
            return self.objects[check_key(key)]
        except KeyError as error:
            raise ArchiveObjectMissingError(f"nothing is archived at {key}") from error

    def exists(self, key: str) -> bool:
        return check_key(key) in self.objects

    def list(self, prefix: str) -> Iterator[str]:
        folder = check_key(prefix.rstrip("/")) + "/"
        yield from sorted(key for key in self.objects if key.startswith(folder))


def open_archive(url: str) -> Archive:
    """The archive at `url`: a folder's path or `file://` URL.

    Raises:
        ConfigurationError: the scheme is not supported, or the folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise ConfigurationError(f"SIMILIS_ARCHIVE__URL: only a folder or a file:// URL is supported, not {url!r}")
    root = Path(unquote(parts.path) if parts.scheme else url).expanduser().resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"SIMILIS_ARCHIVE__URL: cannot make the folder {root}: {error}") from error
    return LocalArchive(root)


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries (a rename, a new file) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path) -> None:
    """Make `folder` and its parents, each new one durable in its parent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        fsync_folder(path.parent)


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
    with open(source, "rb") as reader, open(temporary, "wb") as writer:
        while chunk := reader.read(1 << 20):
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
