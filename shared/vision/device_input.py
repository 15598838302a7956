"""Stored pixels to model input on the device: for GPUs, where the host's windowing and resampling would be the limit.

    (N, H, W) uint8 or uint16 ─▶ pinned slot ─▶ device ─▶ window ─▶ resample ─▶ (N, 1, S, S) float32 in [0, 1]

The same arithmetic as the CPU's path, with the same kernel weights: tested for equality on the CPU. Mean and
standard deviation are in the fast forward's weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shared.vision.resample import dense_weights
from shared.vision.transform import letterbox_box

Stored = NDArray[np.uint8] | NDArray[np.uint16]


class DeviceInput:
    """Transfers and prepares batches of equally large grey frames. For one thread at a time."""

    def __init__(self, device: torch.device, size_px: int, *, slots: int = 2) -> None:
        """With two pinned slots the host fills one while the other is on its way."""
        self._device, self._size_px = device, size_px
        self._slots: list[torch.Tensor | None] = [None] * slots
        self._sent: list[torch.cuda.Event | None] = [None] * slots
        self._next = 0
        self._weights: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, stored: Stored, windows: Sequence[tuple[float, float]], pixel_aspect: float) -> torch.Tensor:
        """Windowed, letterboxed frames.

        Args:
            stored: (N, H, W) stored values.
            windows: The stored values that are black and white, for each frame: a linear window.
            pixel_aspect: Height of a pixel divided by its width.

        Returns:
            (N, 1, S, S) float32 in [0, 1] on the device.
        """
        values = self._transferred(stored).to(torch.float32)
        low, high = torch.tensor(windows, dtype=torch.float32).T.to(self._device)[:, :, None, None]
        shown = ((values - low) / (high - low)).clamp_(0.0, 1.0)
        rows, columns = stored.shape[1:]
        box = letterbox_box(rows, columns, pixel_aspect, self._size_px)
        content = self._kernel(rows, box.height) @ shown @ self._kernel(columns, box.width).T
        square = torch.zeros((len(stored), 1, self._size_px, self._size_px), device=self._device)
        square[:, 0, box.top : box.top + box.height, box.left : box.left + box.width] = content.clamp_(0.0, 1.0)
        return square

    def _kernel(self, size: int, wanted: int) -> torch.Tensor:
        if (size, wanted) not in self._weights:
            self._weights[size, wanted] = torch.from_numpy(dense_weights(size, wanted)).to(self._device)
        return self._weights[size, wanted]

    def _transferred(self, stored: Stored) -> torch.Tensor:
        host = torch.from_numpy(np.ascontiguousarray(stored))
        if self._device.type != "cuda":
            return host.to(self._device)
        place, self._next = self._next, (self._next + 1) % len(self._slots)
        slot, sent = self._slots[place], self._sent[place]
        if sent is not None:
            sent.synchronize()  # what the slot held before has arrived
        if slot is None or slot.shape != host.shape or slot.dtype != host.dtype:
            slot = self._slots[place] = torch.empty_like(host, pin_memory=True)
        slot.copy_(host)
        there = slot.to(self._device, non_blocking=True)
        event = self._sent[place] = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return there
