"""The journal: a folder tree that holds every acknowledged object until its study is published.

    receiving/<n>                            objects being written; swept at start
    incoming/<study>/<name>                  durable objects that no published revision has
    published/<study>.json                   the last published revision and its objects' hashes
    owners/<xx>/<sop> -> <study>             symbolic links: which study published a SOP Instance UID
    unreadable/<study>/<name>                files that were damaged on disk, set aside
    conflicting/<study>/<name>               objects unlike the first one of their UID, set aside
    lock                                     locked by the one listener that uses the journal

An object is written, given its name and then made durable; only then is it acknowledged. Where a
power cut comes in between, the name may stand before the bytes: the hash in it tells. All methods
block and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from services.listener import fault_points, metrics
from services.listener.answers import Outcome, RefusedObjectError
from services.listener.kept import JournalObject, KeptObjects, Named, file_name, parse_file_name
from services.listener.mounts import syncs_names_with_files
from services.listener.owners import Owners
from services.listener.part import Part
from services.listener.published import Published, PublishedStudies
from shared.archive import fsync_folder
from shared.errors import ConfigurationError
from shared.ids import is_valid_uid

log = logging.getLogger(__name__)

_STRIPES: Final = 256
# A CT or MR slice fits in whole.
_BUFFER_BYTES: Final = 1 << 20
_SPARE_BUFFERS: Final = 16
Conflicts = Literal["refuse", "keep-aside"]


class Journal:
    """The tree below `root`, this object's alone until `close` or the process's end.

    `load` reads an object's file back, given its calling AE title, after a restart; `conflicts` says
    what becomes of an object unlike the first one of its SOP Instance UID.

    Raises:
        ConfigurationError: from the constructor, if another listener uses the tree.
        OSError: from the constructor, if the tree cannot be made.
    """

    def __init__(
        self,
        root: Path,
        *,
        load: Callable[[Path, str], JournalObject],
        min_free_bytes: int = 0,
        min_free_files: int = 0,
        conflicts: Conflicts = "refuse",
    ) -> None:
        self._receiving = root / "receiving"
        self._incoming = root / "incoming"
        self._owners = Owners(root / "owners")
        self._unreadable = root / "unreadable"
        self._conflicting = root / "conflicting"
        self._load = load
        self._min_free_bytes = min_free_bytes
        self._min_free_files = min_free_files
        self._conflicts = conflicts
        self._lock = threading.Lock()
        self._sop_locks = tuple(threading.Lock() for _ in range(_STRIPES))
        self._numbers = itertools.count()
        self._buffers: list[memoryview] = []
        self._arriving = 0
        self._kept = KeptObjects()
        self._size_bytes = 0
        with contextlib.ExitStack() as undo:
            self._lock_file: int | None = _lock(root)
            undo.callback(self.close)
            for folder in (self._receiving, self._incoming, root / "published", self._owners.folder):
                folder.mkdir(exist_ok=True)
            fsync_folder(root)
            self._published = PublishedStudies(root / "published")
            self._syncs_names = syncs_names_with_files(self._incoming)
            undo.pop_all()

    def close(self) -> None:
        """Let another listener use the journal; safe to repeat. Nothing may be under way."""
        descriptor, self._lock_file = self._lock_file, None
        if descriptor is not None:
            os.close(descriptor)

    def recover(self) -> list[str]:
        """Sweep what a crash left half-written; the studies that still hold objects, in no order."""
        for unfinished in self._receiving.iterdir():
            unfinished.unlink()
        studies = []
        for folder in self._incoming.iterdir():
            if not folder.is_dir() or not is_valid_uid(folder.name):
                continue
            for file, sop, named in _files(folder):
                try:
                    self._recover(folder.name, file, sop, named)
                except OSError as error:
                    # One bad sector keeps nobody else's objects from being published.
                    log.error("journal: %s cannot be read: %s", file, error.strerror)  # noqa: TRY400
                    metrics.UNREADABLE.inc()
            if self._kept.holds(folder.name):
                fsync_folder(folder)
                studies.append(folder.name)
            else:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        fsync_folder(self._incoming)
        self._published.recover()
        return studies

    def _recover(self, study: str, file: Path, sop: str, named: Named) -> None:
        # Moved but perhaps not yet durable when the crash came; a repeat of it gets Success at once.
        _fsync_file(file)
        self._grow(file.stat().st_size)
        if (other := self._kept.named(study, sop)) is not None:
            # The leftover of a failure, and the object that came after it: what is whole counts.
            if self._read_back(study, file, named) is None:
                return
            if self._object(study, sop) is not None:
                older, newer = sorted((self._file(study, sop, other), file), key=lambda path: path.stat().st_mtime_ns)
                log.error("journal: two objects of study %s have one UID; the older one is set aside", study)
                self._set_aside(older, self._conflicting / study / older.name)
                if newer != file:
                    return
                self._kept.remove(study, sop, other)
        self._kept.add(study, sop, named)

    def free_bytes(self) -> int:
        """Free bytes of the journal's file system."""
        status = os.statvfs(self._incoming)
        return status.f_bavail * status.f_frsize

    def check_space(self, size_bytes: int) -> None:
        """See that `size_bytes` more leave the disk with its reserve.

        Raises:
            RefusedObjectError: NO_SPACE.
        """
        status = os.statvfs(self._incoming)
        has_bytes = status.f_bavail * status.f_frsize >= self._min_free_bytes + size_bytes
        # To be published, each object takes a name or two more.
        has_names = not status.f_files or status.f_favail >= self._min_free_files + 2 * len(self._kept)
        if (self._min_free_bytes and not has_bytes) or (self._min_free_files and not has_names):
            raise RefusedObjectError(Outcome.NO_SPACE, "The listener's disk is nearly full")

    def receive(self, head: bytes) -> Part:
        """A file for an object that begins to arrive, with `head` before its data set.

        Raises:
            RefusedObjectError: NO_SPACE.
            OSError: it cannot be made.
        """
        self.check_space(len(head))
        with self._lock:
            buffer = self._buffers.pop() if self._buffers else memoryview(bytearray(_BUFFER_BYTES))
            is_alone = not self._arriving
            self._arriving += 1
        try:
            return Part(self._receiving / str(next(self._numbers)), head, buffer, is_eager=is_alone)
        except BaseException:
            self._returned(buffer)
            raise

    def release(self, part: Part) -> None:
        """Nothing more comes of `part`: what was not kept is removed. Never raises."""
        try:
            part.discard()
        except OSError as error:
            log.warning("a temporary file could not be removed: %s", error.strerror)
        self._returned(part.buffer)

    def _returned(self, buffer: memoryview) -> None:
        with self._lock:
            self._arriving -= 1
            if len(self._buffers) < _SPARE_BUFFERS:
                self._buffers.append(buffer)

    def sender_of(self, study: str) -> str:
        """An AE title that sent objects of this study; empty if there are none."""
        return next((named.calling_ae_title for named in self._kept.of(study).values()), "")

    def keep(self, received: JournalObject, part: Part, *, first: Callable[[], None] = lambda: None) -> Outcome:
        """Keep a received object; when this returns it is durable, or one like it was before.

        `first` is called before anything is kept, and not if nothing is; what it raises goes on.

        Returns:
            STORED; DUPLICATE if the same data set is already kept or published; SET_ASIDE if it is
            unlike the first one of its UID and conflicts are kept aside.

        Raises:
            RefusedObjectError: CONFLICT, another object has this SOP Instance UID.
            OSError: it could not be made durable; nothing of it is left.
        """
        study, sop = received.header.study_instance_uid, received.header.sop_instance_uid
        with self._sop_locks[zlib.crc32(sop.encode()) % _STRIPES]:
            owner = self.study_of(sop)
            known = self._sha256(owner, sop) if owner is not None else None
            if known is not None:
                if owner == study and known == received.sha256:
                    return Outcome.DUPLICATE
                if self._conflicts == "keep-aside":
                    first()
                    return self._keep_aside(received, part)
                whose = "Another object has this" if owner == study else "An object of another study has this"
                raise RefusedObjectError(Outcome.CONFLICT, f"{whose} SOP Instance UID")
            first()
            part.keep_as(self._path(received), syncs_name=self._syncs_names)
            self._kept.add(study, sop, _named(received), received)
            self._grow(received.size_bytes)
            fault_points.reach("journal.kept")
            return Outcome.STORED

    def objects(self, study: str) -> list[JournalObject]:
        """The study's objects in the journal, by SOP Instance UID; those of an earlier run are read back."""
        found = (self._object(study, sop) for sop in self._kept.of(study))
        return [entry for entry in found if entry is not None]

    def path(self, entry: JournalObject) -> Path:
        """The file of an object in the journal."""
        return self._path(entry)

    def holds(self, study: str) -> bool:
        """Whether the journal has objects of this study."""
        return self._kept.holds(study)

    def published(self, study: str) -> Published:
        """How far `study` has been published."""
        return self._published.of(study)

    def mark_published(self, study: str, revision: int, objects: dict[str, str]) -> None:
        """Note, durably, that `revision` is published and consists of `objects` (SOP UID to file hash)."""
        self._owners.note(study, objects)
        self._published.mark(study, revision, objects)

    def study_of(self, sop: str) -> str | None:
        """The study that a SOP Instance UID belongs to, of those received or published here; None if unknown."""
        return self._kept.study_of(sop) or self._owners.of(sop)

    def doubt(self, study: str) -> None:
        """Read this study's objects back before they are used again; those that are damaged are set aside then."""
        self._kept.forget(study)

    def purge(self, study: str) -> None:
        """Remove the objects that the published revision has; safe to repeat.

        An object that differs from the published one of its SOP Instance UID is set aside instead.
        """
        published = self.published(study).objects
        for sop, named in self._kept.of(study).items():
            if sop not in published:
                continue
            file = self._file(study, sop, named)
            if named.sha256 == published[sop]:
                with contextlib.suppress(FileNotFoundError):
                    size_bytes = file.stat().st_size
                    file.unlink()
                    self._grow(-size_bytes)
            else:
                log.error("journal: an object of study %s is not the one published as %s; set aside", study, sop)
                self._set_aside(file, self._conflicting / study / file.name)
            self._kept.remove(study, sop, named)
            fault_points.reach("publish.purged")
        with contextlib.suppress(OSError):  # objects that came meanwhile
            (self._incoming / study).rmdir()

    def _path(self, entry: JournalObject) -> Path:
        return self._file(entry.header.study_instance_uid, entry.header.sop_instance_uid, _named(entry))

    def _file(self, study: str, sop: str, named: Named) -> Path:
        return self._incoming / study / file_name(sop, named)

    def _grow(self, size_bytes: int) -> None:
        with self._lock:
            self._size_bytes += size_bytes
            metrics.JOURNAL_BYTES.set(self._size_bytes)

    def _sha256(self, study: str, sop: str) -> str | None:
        """The hash of the object that has this UID in this study, or None if there is none."""
        known = self._object(study, sop)
        return known.sha256 if known is not None else self.published(study).objects.get(sop)

    def _object(self, study: str, sop: str) -> JournalObject | None:
        """The object kept under this UID; one of an earlier run is read back, a damaged one is set aside."""
        known, named = self._kept.entry(study, sop), self._kept.named(study, sop)
        if known is not None or named is None:
            return known
        loaded = self._read_back(study, self._file(study, sop, named), named)
        if loaded is None:
            self._kept.remove(study, sop, named)
        else:
            self._kept.remember(study, sop, named, loaded)
        return loaded

    def _read_back(self, study: str, file: Path, named: Named) -> JournalObject | None:
        """The object in a file; None if it was purged meanwhile, or is damaged and was set aside."""
        try:
            return self._loaded(file, named)
        except FileNotFoundError:
            return None
        except RefusedObjectError as error:
            log.error("journal: an object of study %s is damaged on disk and was set aside: %s", study, error)  # noqa: TRY400
            self._set_aside(file, self._unreadable / study / file.name)
            metrics.UNREADABLE.inc()
            return None

    def _loaded(self, file: Path, named: Named) -> JournalObject:
        loaded = self._load(file, named.calling_ae_title)
        if loaded.sha256 != named.sha256:
            raise RefusedObjectError(Outcome.MALFORMED, "The file is not the one that was received")
        return loaded

    def _set_aside(self, file: Path, target: Path) -> None:
        """Move an object's file, durably, to where nothing touches it any more."""
        self._make_aside(target.parent)
        size_bytes = file.stat().st_size
        os.replace(file, target)
        self._grow(-size_bytes)
        fsync_folder(target.parent)

    @staticmethod
    def _make_aside(folder: Path) -> None:
        """Make a study's folder of objects set aside, durably."""
        folder.mkdir(parents=True, exist_ok=True)
        for parent in (folder.parent, folder.parent.parent):
            fsync_folder(parent)

    def _keep_aside(self, received: JournalObject, part: Part) -> Outcome:
        study = received.header.study_instance_uid
        target = self._conflicting / study / self._path(received).name
        self._make_aside(target.parent)
        if target.exists() and self._read_back(study, target, _named(received)) is not None:
            # A repeat of what was set aside: that copy stays, whatever becomes of this one.
            _fsync_file(target)
            fsync_folder(target.parent)
        else:
            part.keep_as(target, syncs_name=self._syncs_names)
        return Outcome.SET_ASIDE


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


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named(entry: JournalObject) -> Named:
    return Named(entry.sha256, entry.calling_ae_title)


def _files(folder: Path) -> list[tuple[Path, str, Named]]:
    """The objects' files in a study's folder, each with its SOP Instance UID and what its name says."""
    found = []
    for path in sorted(folder.iterdir()):
        if (parsed := parse_file_name(path)) is not None:
            found.append((path, *parsed))
        else:
            log.error("journal: %s is no object's file; left alone", path)
    return found
