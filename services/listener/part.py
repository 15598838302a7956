"""A file that an object is written to while it is received."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import Final

from services.listener import fault_points
from services.listener.elements import BytesSource, FileSource, Source
from shared.archive import fsync_folder

_MOVE_TRIES: Final = 8
# How much is written and hashed at a time while the rest arrives, of an object that has the disk to itself.
_EAGER_BYTES: Final = 256 << 10
# A long object goes to disk as it comes: one fsync of a gigabyte would outlast its sender's patience.
_SYNC_EVERY_BYTES: Final = 64 << 20


class Part:
    """A new file at `path`, for its one writer. It is gone after `discard`, unless it got its name.

    What is written is gathered in `buffer`, which the caller may use again afterwards: fewer and
    longer calls into the kernel cost less, and an object that fits is never read back. `is_eager`
    has it written out while it arrives instead: more work for the machine and sooner done, which pays
    while nothing else arrives.

    Raises:
        OSError: from the constructor, if the file cannot be made.
    """

    __slots__ = (
        "_flushed",
        "_hash",
        "_held",
        "_is_eager",
        "_is_named",
        "_unsynced_bytes",
        "buffer",
        "descriptor",
        "head_bytes",
        "path",
        "size_bytes",
    )

    def __init__(self, path: Path, head: bytes, buffer: memoryview, *, is_eager: bool) -> None:
        self.path = path
        self.head_bytes = len(head)
        self.size_bytes = 0
        self.buffer = buffer
        self._is_eager = is_eager
        # Of the buffer's bytes: how many are held, and how many of them are in the file already.
        self._held = self._flushed = 0
        self._unsynced_bytes = 0
        self._hash = hashlib.sha256()
        self._is_named = False
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fault_points.reach("part.opened")
        self.write(head)  # into the buffer, where nothing can fail

    def write(self, data: bytes | memoryview) -> None:
        """Append a piece of the object.

        Raises:
            OSError: it could not be written.
        """
        self.size_bytes += len(data)
        if len(data) > len(self.buffer) - self._held:
            self._flush()
            self._held = self._flushed = 0
            if len(data) > len(self.buffer):
                self._put(data)
                return
        self.buffer[self._held : self._held + len(data)] = data
        self._held += len(data)
        if self._is_eager and self._held - self._flushed >= _EAGER_BYTES:
            self._flush()
            # The kernel begins to write it out, so that less is left for the fsync; nothing is dropped before that.
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _flush(self) -> None:
        start, self._flushed = self._flushed, self._held
        if start < self._held:
            self._put(self.buffer[start : self._held])

    def _put(self, data: bytes | memoryview) -> None:
        written = os.write(self.descriptor, data)
        while written < len(data):
            # A disk that fills up takes a part first, and then nothing.
            count = os.write(self.descriptor, data[written:])
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += count
        self._hash.update(data)
        self._unsynced_bytes += written
        if self._unsynced_bytes >= _SYNC_EVERY_BYTES:
            os.fdatasync(self.descriptor)
            self._unsynced_bytes = 0

    @property
    def dataset_bytes(self) -> int:
        """Bytes of the data set so far."""
        return self.size_bytes - self.head_bytes

    def dataset(self) -> Source:
        """The data set so far, valid until the next `write`."""
        if self._held == self.size_bytes:
            return BytesSource(self.buffer[self.head_bytes : self._held])
        self._flush()
        return FileSource(self.descriptor, self.head_bytes, self.dataset_bytes)

    def sha256(self) -> str:
        """SHA-256 of the whole file as hexadecimal digits.

        Raises:
            OSError: the rest of it could not be written.
        """
        self._flush()
        return self._hash.hexdigest()

    def keep_as(self, target: Path, *, syncs_name: bool) -> None:
        """Give the file its name, durably. `syncs_name`: the file system makes a name durable with its file.

        Raises:
            OSError: it could not be made durable; nothing stands at `target`.
        """
        folder = target.parent
        try:
            self._flush()
            fault_points.reach("part.written")
            if not syncs_name:
                os.fsync(self.descriptor)
            self._move(target)
            fault_points.reach("journal.renamed")
            if syncs_name:
                # One commit of the file system's own journal for the bytes and the name.
                os.fsync(self.descriptor)
            else:
                # The folder itself may have been made by another thread, which is not as far yet.
                fsync_folder(folder)
                fsync_folder(folder.parent)
            fault_points.reach("journal.synced")
        except BaseException:
            # Not durable for sure, so not acknowledged: it must not stay either. What stood there before is not ours.
            if self._is_named:
                with contextlib.suppress(FileNotFoundError):
                    target.unlink()
            raise

    def _move(self, target: Path) -> None:
        for _ in range(_MOVE_TRIES):
            try:
                os.replace(self.path, target)
            except FileNotFoundError:
                # It is the study's first object, or a purge removed the empty folder.
                target.parent.mkdir(exist_ok=True)
            else:
                self._is_named = True
                return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def discard(self) -> None:
        """Remove the file unless it got its name. Call it once."""
        os.close(self.descriptor)
        if not self._is_named:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
