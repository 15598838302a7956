"""The crosswalk: which patient each pseudonym stands for, encrypted, in one file that only grows.

    CROSSWALK         one line a patient, see `crosswalk_records`; mode 0600
    CROSSWALK.lock    held for each change, so that processes can share the file
    CROSSWALK.new     a rewrite under way; the next one replaces it

A flat file rather than SQLite: the one question asked for each object is whether its pseudonym is
known, and a set in memory answers it; a record is one write and one fsync; nothing is left in free
pages or side files after `forget`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.listener.crosswalk_records import (
    MAGIC,
    MAX_HEADER_BYTES,
    DamagedRecordError,
    Identity,
    RecordCipher,
    is_pseudonym,
    opened,
    pseudonym_of,
)
from shared.archive import fsync_folder
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

PRIVATE: Final = 0o600


class _OpenFile:
    """The file under the crosswalk's path as it was last seen; used with the lock held, but for `is_at`."""

    def __init__(self, path: Path, key: bytes, *, create: bool) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        # While this is open, no other file can get the same inode number.
        self.descriptor = os.open(path, flags, PRIVATE)
        try:
            found = os.fstat(self.descriptor)
            self._inode = (found.st_dev, found.st_ino)
            if stat.S_IMODE(found.st_mode) != PRIVATE:
                os.fchmod(self.descriptor, PRIVATE)
            self.known: set[bytes] = set()
            self.cipher, self.end = self._begin(key, create=create)
            # A file or a rename that is not durable yet must not take records that have to be.
            fsync_folder(path.parent)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _begin(self, key: bytes, *, create: bool) -> tuple[RecordCipher, int]:
        head = os.pread(self.descriptor, MAX_HEADER_BYTES, 0)
        header, end, _ = head.partition(b"\n")
        if create and not end and len(head) < MAX_HEADER_BYTES and MAGIC.startswith(head[: len(MAGIC)]):
            # New, or its maker died before the first line was whole; no record can have followed.
            cipher = RecordCipher.for_new_file(key)
            header = cipher.header()
            os.ftruncate(self.descriptor, 0)
            write_durably(self.descriptor, header, 0)
            return cipher, len(header)
        try:
            return RecordCipher.for_file(key, header), len(header) + 1
        except DamagedRecordError as error:
            raise wrong_key(self._path) from error

    def is_at(self, path: Path) -> bool:
        """Whether `path` still leads to this file."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def read_on(self) -> bool:
        """Take in what was added, and cut off what a dying writer left; False if the file has shrunk."""
        size = os.fstat(self.descriptor).st_size
        if size <= self.end:
            return size == self.end
        damaged = 0
        with open(self.descriptor, "rb", closefd=False) as file:
            file.seek(self.end)
            for line, identity in opened(file, self.cipher):
                self.end += len(line)
                if identity is None:
                    damaged += 1
                else:
                    self.known.add(bytes.fromhex(pseudonym_of(line)))
        if damaged:
            log.error("crosswalk: %d records are damaged; their patients are noted anew when seen again", damaged)
        if size > self.end:
            log.warning("crosswalk: the last record is unfinished, its %d bytes are cut off", size - self.end)
            os.ftruncate(self.descriptor, self.end)
        # Its writer may have died before its own fsync.
        os.fsync(self.descriptor)
        return True

    def append(self, line: bytes) -> None:
        """Add one record, durably, or nothing."""
        try:
            write_durably(self.descriptor, line, self.end)
        except OSError:
            with contextlib.suppress(OSError):  # what stays is cut off by the next `read_on`
                os.ftruncate(self.descriptor, self.end)
            raise
        self.end += len(line)


class Crosswalk:
    """Notes identities. Safe for threads and for several processes on one file.

    Memory: about 100 bytes for each patient ever noted. Start-up opens every record: 5 s for a million.

    Raises:
        ConfigurationError: from the constructor, the file cannot be used, or belongs to another key.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path.resolve()
        self._key = key
        # Over NFS the file's lock is the process's, and lets its threads through.
        self._mutex = threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._mutex, locked(self._path):
                # Of a rewrite that died.
                rewritten(self._path).unlink(missing_ok=True)
                self._file = _OpenFile(self._path, key, create=True)
                self._file.read_on()
        except OSError as error:
            raise ConfigurationError(f"the crosswalk {path} cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file. Nothing may be under way."""
        os.close(self._file.descriptor)

    def note(self, pseudonym: str, issuer: str, patient_id: str, study_instance_uid: str) -> None:
        """Keep whose pseudonym this is; when this returns it is durable. At once if it is known.

        The study is kept only where it stands in for a missing Patient ID.

        Raises:
            OSError: it could not be written; nothing of it is left.
            ConfigurationError: the file was replaced by one of another key.
            ValueError: `pseudonym` is none.
        """
        who = bytes.fromhex(pseudonym)
        file = self._file
        if who in file.known and file.is_at(self._path):
            return
        if not is_pseudonym(pseudonym):
            raise ValueError("not a pseudonym")
        identity = Identity(issuer, patient_id, "") if patient_id else Identity("", "", study_instance_uid)
        with self._mutex, locked(self._path):
            file = self._current()
            if who not in file.known:
                file.append(file.cipher.seal(pseudonym, identity))
                file.known.add(who)

    @property
    def patients(self) -> int:
        """How many pseudonyms are known."""
        return len(self._file.known)

    def _current(self) -> _OpenFile:
        """The file as it is now: another process may have added to it, or rewritten it to forget someone."""
        file = self._file
        if file.is_at(self._path) and file.read_on():
            return file
        if not self._path.exists():
            log.error("crosswalk: the file is gone; a new one is begun")
        fresh = _OpenFile(self._path, self._key, create=True)
        try:
            fresh.read_on()
        except BaseException:
            os.close(fresh.descriptor)
            raise
        self._file = fresh
        os.close(file.descriptor)
        return fresh


def wrong_key(path: Path) -> ConfigurationError:
    """What to raise when the first line of the file at `path` does not open."""
    return ConfigurationError(f"the crosswalk {path} was not written with this key, or its first line is damaged")


def write_durably(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset` and wait until the disk has it.

    Raises:
        OSError: not all of it is durable.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset += written
        rest = rest[written:]
    os.fsync(descriptor)


def rewritten(path: Path) -> Path:
    """Where a rewrite of the crosswalk at `path` is made."""
    return path.with_name(f"{path.name}.new")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock of the crosswalk at `path` against other processes; the lock's file descriptor.

    Raises:
        OSError: the lock's file cannot be opened.
    """
    # Opened each time: a descriptor that a fork shares would let both through.
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
