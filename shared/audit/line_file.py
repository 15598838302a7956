"""A file of lines that several processes may append to, and that another program rotates."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Final

# Another process's line is one write, which a reader may see a part of.
SETTLE_S: Final = 0.1
SETTLE_LOOKS: Final = 20


class LineFile:
    """Appends lines to `path`, each by one write; follows the name when the file behind it is another.

    The file is made if need be, readable by its owner only. Rotation is left to logrotate or its
    like, with any of its ways (create, nocreate, copytruncate) and without a signal: how long audit
    records are kept is not this process's to say, and with several of them none could rename safely.

    The constructor and `follow` take at least `SETTLE_S` where the file ends within a line.

    Raises:
        OSError: from the constructor and every method, as the file system has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor, self._is_torn = _open(path)

    def follow(self) -> None:
        """See that lines go to the file that the path names now."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            named = None
        ours = os.fstat(self._descriptor)
        if named is None or (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            before = self._descriptor
            self._descriptor, self._is_torn = _open(self._path)
            os.close(before)

    def append(self, line: bytes) -> None:
        """Write `line` and its end. On an error none of it counts, though a part of it may stand there."""
        # What an earlier write left unfinished becomes a line of its own, which is no JSON.
        data = (b"\n" if self._is_torn else b"") + line + b"\n"
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._is_torn = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_torn = False

    def sync(self) -> None:
        """Make what was written durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """A descriptor that appends, and whether the file ends within a line, such as after a power cut."""
    is_new = not path.exists()
    # Not to wait for ever for the reader of a named pipe.
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        is_torn = _is_torn(descriptor, path)
        if is_new:
            _sync_folder(path.parent)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, is_torn


def _is_torn(descriptor: int, path: Path) -> bool:
    """Whether the file ends within a line that nobody is writing any more."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    size = status.st_size
    for _ in range(SETTLE_LOOKS):
        if _ends_with_a_line(descriptor, size):
            return False
        time.sleep(SETTLE_S)
        before, size = size, os.fstat(descriptor).st_size
        if size == before:
            return not _ends_with_a_line(descriptor, size)
    # Always caught within a line: an empty line more costs less than a record that another one's rest spoils.
    return True


def _ends_with_a_line(descriptor: int, size: int) -> bool:
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
