"""The journal: a folder tree that holds every acknowledged object until its study is published.

    incoming/<study>/<sop>.dcm     durable objects that no published revision has
    incoming/<study>/.part-*       objects being written; swept at start
    published/<study>.json         the last published revision and its objects' hashes
    owners/<xx>/<sop> -> <study>   symbolic links: which study a SOP Instance UID belongs to
    unreadable/<study>/<sop>.dcm   files that were damaged on disk, set aside
    conflicting/<study>/<sop>.<hash>.dcm   objects unlike the published one of their UID, set aside
    lock                           locked by the one listener that uses the journal

All methods block and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from services.listener import metrics
from services.listener.answers import Outcome, RefusedObjectError
from services.listener.header import ObjectHeader
from shared.archive import fsync_folder
from shared.errors import ConfigurationError
from shared.ids import is_valid_uid
from shared.manifest import Sha256

log = logging.getLogger(__name__)

_STRIPES: Final = 256
_CACHED_STUDIES: Final = 64
_PART: Final = ".part-"


@dataclass(frozen=True, slots=True)
class JournalObject:
    """One object in the journal and what its manifest entry needs."""

    header: ObjectHeader
    transfer_syntax_uid: str
    calling_ae_title: str
    size_bytes: int
    sha256: str
    dataset_sha256: str


class Published(BaseModel):
    """How far a study has been published."""

    model_config = ConfigDict(frozen=True)

    revision: NonNegativeInt = 0
    objects: dict[str, Sha256] = {}
    """SOP Instance UID to the hash of the data set's bytes."""


class Journal:
    """The tree below `root`, this object's alone until `close` or the process's end.

    `load` reads an object's file back, after a restart.

    Raises:
        ConfigurationError: from the constructor, if another listener uses the tree.
        OSError: from the constructor, if the tree cannot be made.
    """

    def __init__(self, root: Path, *, load: Callable[[bytes], JournalObject], min_free_bytes: int = 0) -> None:
        self._incoming = root / "incoming"
        self._published = root / "published"
        self._owners = root / "owners"
        self._unreadable = root / "unreadable"
        self._conflicting = root / "conflicting"
        self._load = load
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._sop_locks = tuple(threading.Lock() for _ in range(_STRIPES))
        self._objects: dict[str, dict[str, JournalObject]] = {}
        self._states: OrderedDict[str, Published] = OrderedDict()
        self._size_bytes = 0
        with contextlib.ExitStack() as undo:
            self._lock_file: int | None = _lock(root)
            undo.callback(self.close)
            for folder in (self._incoming, self._published, self._owners):
                folder.mkdir(exist_ok=True)
            fsync_folder(root)
            undo.pop_all()

    def close(self) -> None:
        """Let another listener use the journal; safe to repeat. Nothing may be under way."""
        descriptor, self._lock_file = self._lock_file, None
        if descriptor is not None:
            os.close(descriptor)

    def recover(self) -> list[str]:
        """Sweep what a crash left half-written; the studies that still hold objects, in no order."""
        studies = []
        for folder in self._incoming.iterdir():
            if not folder.is_dir() or not is_valid_uid(folder.name):
                continue
            for temporary in folder.glob(f"{_PART}*"):
                temporary.unlink()
            kept = _files(folder)
            for file in kept:
                self._claim(_sop(file), folder.name)
            if kept:
                # Written but perhaps not yet durable when the crash came; a repeat of it gets Success at once.
                fsync_folder(folder)
                studies.append(folder.name)
            else:
                folder.rmdir()
            self._grow(sum(file.stat().st_size for file in kept))
        fsync_folder(self._incoming)
        for temporary in self._published.glob(f"{_PART}*"):
            temporary.unlink()
        return studies

    def free_bytes(self) -> int:
        """Free bytes of the journal's file system."""
        return shutil.disk_usage(self._incoming).free

    def store(self, received: JournalObject, parts: Iterable[bytes]) -> Outcome:
        """Keep an object, the concatenated `parts`; when this returns it is durable.

        Returns:
            STORED, or DUPLICATE if the same data set is already kept or published.

        Raises:
            RefusedObjectError: CONFLICT, another object has this SOP Instance UID; NO_SPACE.
            OSError: it could not be written; nothing of it is left.
        """
        study, sop = received.header.study_instance_uid, received.header.sop_instance_uid
        with self._sop_locks[zlib.crc32(sop.encode()) % _STRIPES]:
            owner = self._claim(sop, study)
            if owner != study:
                if self._dataset_sha256(owner, sop) is not None:
                    raise RefusedObjectError(Outcome.CONFLICT, "This SOP Instance UID is part of another study")
                self._claim(sop, study, instead_of=owner)
            elif (known := self._dataset_sha256(study, sop)) is not None:
                if known == received.dataset_sha256:
                    return Outcome.DUPLICATE
                raise RefusedObjectError(Outcome.CONFLICT, "Another object has this SOP Instance UID already")
            if self._min_free_bytes and self.free_bytes() < self._min_free_bytes + received.size_bytes:
                raise RefusedObjectError(Outcome.NO_SPACE, "The listener's disk is nearly full")
            self._write(study, sop, parts)
            with self._lock:
                self._objects.setdefault(study, {})[sop] = received
            self._grow(received.size_bytes)
            return Outcome.STORED

    def objects(self, study: str) -> list[JournalObject]:
        """The study's objects in the journal, by SOP Instance UID; those of an earlier run are read back."""
        found = []
        for file in _files(self._incoming / study):
            sop = _sop(file)
            with self._lock:
                known = self._objects.get(study, {}).get(sop)
            if known is None:
                known = self._read_back(study, sop)
            if known is not None:
                found.append(known)
        return found

    def path(self, entry: JournalObject) -> Path:
        """The file of an object in the journal."""
        return self._path(entry.header.study_instance_uid, entry.header.sop_instance_uid)

    def holds(self, study: str) -> bool:
        """Whether the journal has objects of this study."""
        return bool(_files(self._incoming / study))

    def published(self, study: str) -> Published:
        """How far `study` has been published."""
        with self._lock:
            if (state := self._states.get(study)) is not None:
                self._states.move_to_end(study)
                return state
        try:
            state = Published.model_validate_json((self._published / f"{study}.json").read_bytes())
        except FileNotFoundError:
            state = Published()
        with self._lock:
            # What was marked since the file was read is newer.
            if (newer := self._states.get(study)) is not None:
                return newer
            self._remember(study, state)
        return state

    def mark_published(self, study: str, revision: int, objects: Mapping[str, str]) -> None:
        """Note, durably, that `revision` is published and consists of `objects` (SOP UID to data set hash)."""
        state = Published(revision=revision, objects=dict(objects))
        descriptor, name = tempfile.mkstemp(prefix=_PART, dir=self._published)
        with os.fdopen(descriptor, "wb") as file:
            file.write(state.model_dump_json().encode())
            file.flush()
            os.fsync(descriptor)
        os.replace(name, self._published / f"{study}.json")
        fsync_folder(self._published)
        with self._lock:
            self._remember(study, state)

    def purge(self, study: str) -> None:
        """Remove the objects that the published revision has; safe to repeat.

        An object that differs from the published one of its SOP Instance UID is set aside instead.
        """
        published = self.published(study).objects
        folder = self._incoming / study
        for file in _files(folder):
            sop = _sop(file)
            if sop not in published:
                continue
            with self._lock:
                known = self._objects.get(study, {}).get(sop)
            known = known or self._read_back(study, sop)
            if known is None:
                continue  # damaged, and set aside
            if known.dataset_sha256 == published[sop]:
                size_bytes = file.stat().st_size
                file.unlink()
                self._grow(-size_bytes)
            else:
                log.error("journal: an object of study %s is not the one published as %s; set aside", study, sop)
                self._set_aside(file, self._conflicting / study / f"{sop}.{known.dataset_sha256}.dcm")
            with self._lock:
                self._objects.get(study, {}).pop(sop, None)
        with self._lock:
            if not self._objects.get(study):
                self._objects.pop(study, None)
        try:
            folder.rmdir()
        except OSError:
            return  # objects that came meanwhile

    def _path(self, study: str, sop: str) -> Path:
        return self._incoming / study / f"{sop}.dcm"

    def _remember(self, study: str, state: Published) -> None:
        """Cache `state`; the caller holds the lock."""
        self._states[study] = state
        self._states.move_to_end(study)
        while len(self._states) > _CACHED_STUDIES:
            self._states.popitem(last=False)

    def _grow(self, size_bytes: int) -> None:
        with self._lock:
            self._size_bytes += size_bytes
            metrics.JOURNAL_BYTES.set(self._size_bytes)

    def _dataset_sha256(self, study: str, sop: str) -> str | None:
        """The hash of the object that has this UID in this study, or None if there is none."""
        with self._lock:
            known = self._objects.get(study, {}).get(sop)
        if known is None and self._path(study, sop).exists():
            known = self._read_back(study, sop)
        return known.dataset_sha256 if known is not None else self.published(study).objects.get(sop)

    def _read_back(self, study: str, sop: str) -> JournalObject | None:
        """The object in a file that an earlier run wrote; a damaged file is set aside."""
        path = self._path(study, sop)
        try:
            loaded = self._load(path.read_bytes())
        except FileNotFoundError:
            return None  # purged meanwhile
        except RefusedObjectError as error:
            log.error("journal: an object of study %s is damaged on disk and was set aside: %s", study, error)  # noqa: TRY400
            self._set_aside(path, self._unreadable / study / path.name)
            metrics.UNREADABLE.inc()
            return None
        with self._lock:
            if path.exists():
                self._objects.setdefault(study, {})[sop] = loaded
        return loaded

    def _set_aside(self, file: Path, target: Path) -> None:
        """Move an object's file, durably, to where nothing touches it any more."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._grow(-file.stat().st_size)
        os.replace(file, target)
        fsync_folder(target.parent)

    def _claim(self, sop: str, study: str, *, instead_of: str | None = None) -> str:
        """Make `study` the owner of `sop` unless another is; the owner's UID.

        Not fsynced: on a journalling file system the link is ordered before the object's rename,
        whose folder is. A claim without an object counts for nothing.
        """
        link = self._owners / f"{zlib.crc32(sop.encode()) & 0xFF:02x}" / sop
        if instead_of is not None:
            link.unlink(missing_ok=True)
        for _ in range(2):
            try:
                link.symlink_to(study)
            except FileExistsError:
                return str(link.readlink())
            except FileNotFoundError:
                link.parent.mkdir(exist_ok=True)
            else:
                return study
        return study

    def _write(self, study: str, sop: str, parts: Iterable[bytes]) -> None:
        folder = self._incoming / study
        descriptor, temporary = self._open_part(folder)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for part in parts:
                    rest = memoryview(part)
                    while rest:
                        rest = rest[file.write(rest) :]
                os.fsync(descriptor)
            os.replace(temporary, self._path(study, sop))
            fsync_folder(folder)
            with self._lock:
                is_first = study not in self._objects
            if is_first:
                fsync_folder(self._incoming)
        except BaseException:
            # Not durable for sure, so not acknowledged: it must not stay either.
            Path(temporary).unlink(missing_ok=True)
            self._path(study, sop).unlink(missing_ok=True)
            raise

    def _open_part(self, folder: Path) -> tuple[int, str]:
        """A new temporary file in `folder`. While it stands, a purge cannot remove the folder."""
        while True:
            folder.mkdir(exist_ok=True)
            try:
                return tempfile.mkstemp(prefix=_PART, dir=folder)
            except FileNotFoundError:
                continue  # a purge removed the empty folder in between


def _lock(root: Path) -> int:
    """Take the lock of the journal at `root`, which is made if need be; the lock's file descriptor."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(f"the journal {root} is in use by another listener") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _files(folder: Path) -> list[Path]:
    """The objects' files in a study's folder, sorted; none if there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".dcm")
    except FileNotFoundError:
        return []


def _sop(file: Path) -> str:
    return file.name.removesuffix(".dcm")


def hashes(head: bytes, dataset: bytes | memoryview) -> tuple[str, str]:
    """SHA-256 of the whole file and of the data set alone."""
    whole = hashlib.sha256(head)
    whole.update(dataset)
    return whole.hexdigest(), hashlib.sha256(dataset).hexdigest()
