"""Batches through the model in few fixed shapes, so that a vector does not depend on what it travels with.

Kernels choose their blocking by the shape of the whole batch, and with it the order of sums: the same frame
can differ in its last bits between batches of one and of eight. Batches are therefore filled up with black
frames to the full size, or to a smaller one that was seen to give the very same bits on this machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_NO_MEMORY: Final = ("not enough memory", "can't allocate memory", "bad_alloc", "out of memory", "could not create a")
"""In the text of what torch's CPU allocator and oneDNN raise: RuntimeError, without a class of its own."""

Forward = Callable[[torch.Tensor], torch.Tensor]


class BatchEncoder:
    """Runs `forward` on (N, C, S, S) pixels, C 1 or 3. Calls from several threads take turns, batch by batch."""

    def __init__(
        self, forward: Forward, *, size_px: int, batch_size: int, device: torch.device, one_shape: bool = False
    ) -> None:
        """Nothing runs yet.

        Args:
            forward: Features of (N, C, S, S) float32 pixels on `device`.
            size_px: S.
            batch_size: The largest batch; halved where memory does not suffice.
            device: Where `forward` runs.
            one_shape: Fill every batch to the full size, since each shape is compiled apart.
        """
        self._forward, self._size_px, self._device = forward, size_px, device
        self._largest = batch_size
        self._one_shape = one_shape
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._turn = threading.RLock()

    @property
    def batch_size(self) -> int:
        """The largest batch now."""
        return self._largest

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, F) features of (N, C, S, S) pixels; N is at least 1.

        Raises:
            RuntimeError: not even one frame fits into memory.
        """
        done: list[NDArray[np.float32]] = []
        start = 0
        while start < len(pixels):
            with self._turn:
                try:
                    shape = self._shape_for(len(pixels) - start, pixels.shape[1])
                    part = pixels[start : start + shape]
                    done.append(self._run(part, shape)[: len(part)])
                except RuntimeError as error:  # torch.OutOfMemoryError is one
                    self._halve(error)
                    continue
            start += len(part)
        return np.concatenate(done)

    def warm_up(self) -> float:
        """Settle the shapes for grey frames; returns frames a second in full batches, by the wall clock."""
        frames = np.zeros((self._largest, 1, self._size_px, self._size_px), np.float32)
        self(frames)
        started_s = time.perf_counter()
        self(frames[: self._largest])
        return self._largest / (time.perf_counter() - started_s)

    def shapes(self, channels: int) -> tuple[int, ...]:
        """Sizes of batches for frames of so many channels, ascending; the last is the full one."""
        with self._turn:
            if channels not in self._shapes:
                self._shapes[channels] = self._equal_shapes(channels)
            return self._shapes[channels]

    def _shape_for(self, count: int, channels: int) -> int:
        shapes = self.shapes(channels)
        return next((shape for shape in shapes if shape >= count), shapes[-1])

    def _equal_shapes(self, channels: int) -> tuple[int, ...]:
        """The sizes that give the same bits as the full one, for any place in the batch that was tried."""
        full = self._largest
        smaller = [] if self._one_shape else [1 << n for n in range(full.bit_length()) if 1 << n < full]
        if not smaller:
            return (full,)
        generator = np.random.default_rng(0)
        frames = generator.random((full, channels, self._size_px, self._size_px), np.float32)
        expected = self._run(frames, full)
        equal = [size for size in smaller if np.array_equal(self._run(frames[:size], size), expected[:size])]
        return (*equal, full)

    def _run(self, pixels: NDArray[np.float32], shape: int) -> NDArray[np.float32]:
        if len(pixels) < shape:
            filled = np.zeros((shape, *pixels.shape[1:]), np.float32)
            filled[: len(pixels)] = pixels
            pixels = filled
        with torch.inference_mode():
            features = self._forward(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device))
            return np.asarray(features.cpu().numpy(), np.float32)

    def _halve(self, error: RuntimeError) -> None:
        if self._largest == 1 or not is_out_of_memory(error):
            raise error
        self._largest //= 2
        self._shapes.clear()  # they were compared with the larger size
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory: from now on %d frames in one forward pass", self._largest)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error).lower() for text in _NO_MEMORY)
