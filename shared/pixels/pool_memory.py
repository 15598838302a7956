"""Memory that two processes share and nobody can leak.

It has no name: a memory file (Linux), else an unlinked temporary file. The kernel frees it when the last process
that holds it is gone, however those ended; nothing is left in /dev/shm.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from typing import Final

import numpy as np
from numpy.typing import NDArray

SLOTS: Final = 2
"""Frames of one worker in flight: it decodes into one slot while the other is copied out."""

# What is kept of the memory for an object's bytes once the object is done.
_KEPT_BYTES: Final = 16 * 1024 * 1024


def anonymous_file(size_bytes: int, *, fixed: bool) -> int:
    """A descriptor of nameless memory. `fixed`: nobody may resize it, where the system can promise that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("similis-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size_bytes)
    if fixed and hasattr(fcntl, "F_ADD_SEALS"):
        # A worker that a hostile image took over could shrink it, and our next read would be a SIGBUS.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class FrameSlots:
    """Room for `SLOTS` letterboxed frames, each (S, S) or (S, S, 3) float32, over a descriptor."""

    def __init__(self, descriptor: int, size_px: int) -> None:
        self._size_px = size_px
        self._memory = mmap.mmap(descriptor, self.size_bytes(size_px))

    @staticmethod
    def size_bytes(size_px: int) -> int:
        """Bytes of all slots."""
        return SLOTS * size_px * size_px * 3 * 4

    def view(self, slot: int, *, colour: bool) -> NDArray[np.float32]:
        """The frame in `slot`: a view, overwritten by a later frame."""
        shape = (self._size_px, self._size_px, *((3,) if colour else ()))
        offset = slot * (len(self._memory) // SLOTS)
        return np.frombuffer(self._memory, np.float32, count=int(np.prod(shape)), offset=offset).reshape(shape)

    def close(self) -> None:
        """Let go of the memory; views of it must be gone."""
        with contextlib.suppress(BufferError):
            self._memory.close()


def write_object(descriptor: int, data: bytes) -> None:
    """Put an object's bytes at the start of the memory, which grows as needed."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], written)


def read_object(descriptor: int, size_bytes: int) -> bytes:
    """The first `size_bytes` bytes of the memory."""
    parts, read = [], 0
    while read < size_bytes:
        part = os.pread(descriptor, size_bytes - read, read)
        if not part:
            break
        parts.append(part)
        read += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def shrink_object(descriptor: int) -> None:
    """Give back what a large object took."""
    if os.fstat(descriptor).st_size > _KEPT_BYTES:
        os.ftruncate(descriptor, 0)
