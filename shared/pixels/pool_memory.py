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
from typing import Final, Protocol

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


class FrameMemory(Protocol):
    """Room for `SLOTS` frames, each (H, W) or (H, W, 3) float32."""

    def put(self, slot: int, pixels: NDArray[np.float32]) -> None:
        """Keep a frame, in the place of what was in `slot`."""

    def take(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A copy of the frame in `slot`.

        Raises:
            ValueError: no frame of that shape can lie there.
        """

    def shrink(self) -> None:
        """Give back what large frames took; all frames are gone then."""

    def close(self) -> None:
        """Let go of the memory."""


class FrameSlots:
    """`FrameMemory` of letterboxed frames, (S, S) or (S, S, 3), over a descriptor."""

    def __init__(self, descriptor: int, size_px: int) -> None:
        self._size_px = size_px
        self._memory = mmap.mmap(descriptor, self.size_bytes(size_px))

    @staticmethod
    def size_bytes(size_px: int) -> int:
        """Bytes of all slots."""
        return SLOTS * size_px * size_px * 3 * 4

    def put(self, slot: int, pixels: NDArray[np.float32]) -> None:
        """As `FrameMemory.put`."""
        self._view(slot, pixels.shape)[...] = pixels

    def take(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As `FrameMemory.take`."""
        if shape not in ((self._size_px, self._size_px), (self._size_px, self._size_px, 3)):
            raise ValueError("not the shape of a square")
        return self._view(slot, shape).copy()

    def shrink(self) -> None:
        """Nothing: its size is fixed."""

    def close(self) -> None:
        """Let go of the memory."""
        with contextlib.suppress(BufferError):
            self._memory.close()

    def _view(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        offset = slot * (len(self._memory) // SLOTS)
        return np.frombuffer(self._memory, np.float32, count=int(np.prod(shape)), offset=offset).reshape(shape)


class WholeFrames:
    """`FrameMemory` of frames of any size up to `max_frame_pixels`, over a descriptor.

    It is read and written, never mapped: a worker that a hostile image took over may resize it at any time, and a
    read beyond its end is then short, where an access to a map would be a SIGBUS.
    """

    def __init__(self, descriptor: int, max_frame_pixels: int) -> None:
        self._descriptor = descriptor
        self._max_frame_pixels = max_frame_pixels

    def put(self, slot: int, pixels: NDArray[np.float32]) -> None:
        """As `FrameMemory.put`."""
        data = np.ascontiguousarray(pixels, np.float32).data.cast("B")
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self._offset(slot) + written)

    def take(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As `FrameMemory.take`."""
        is_frame = len(shape) in (2, 3) and shape[2:] in ((), (3,)) and min(shape) > 0
        if not is_frame or shape[0] * shape[1] > self._max_frame_pixels or not 0 <= slot < SLOTS:
            raise ValueError("not the shape of a frame")
        pixels = np.empty(shape, np.float32)
        data, read = pixels.data.cast("B"), 0
        while read < len(data):
            count = os.preadv(self._descriptor, [data[read:]], self._offset(slot) + read)
            if not count:
                raise ValueError("the frame is not there")
            read += count
        return pixels

    def shrink(self) -> None:
        """As `FrameMemory.shrink`."""
        # The second slot's offset makes the file long; what counts is what was written.
        if os.fstat(self._descriptor).st_blocks * 512 > _KEPT_BYTES:
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self._descriptor)

    def _offset(self, slot: int) -> int:
        return slot * self._max_frame_pixels * 3 * 4


def new_frame_memory(size_px: int | None) -> int:
    """A descriptor for the frames of one worker: squares of `size_px`, or whole frames."""
    if size_px is None:
        return anonymous_file(0, fixed=False)
    return anonymous_file(FrameSlots.size_bytes(size_px), fixed=True)


def frame_memory(descriptor: int, size_px: int | None, max_frame_pixels: int) -> FrameMemory:
    """The frames that lie in what `new_frame_memory` gave."""
    return WholeFrames(descriptor, max_frame_pixels) if size_px is None else FrameSlots(descriptor, size_px)


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
