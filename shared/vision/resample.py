"""Antialiased bicubic resampling as Pillow defines it, by a few small matrix products.

Each output row is a weighted sum of the input rows under its kernel. The weights depend on the two sizes only,
so they are kept; a block of output rows needs one band of input rows, which makes it one product of dense
matrices for BLAS. Pillow's own float32 loop is the reference: the two differ by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SUPPORT: Final = 2.0  # of the cubic kernel, in input pixels where it does not shrink
_A: Final = -0.5  # Keys' parameter, as in Pillow; OpenCV and torch without antialiasing use -.75
_BLOCK: Final = 16  # output rows to one product: fewer are more calls, more are more zeros


@dataclass(frozen=True, slots=True)
class _Band:
    """Output rows `start` to `stop`, and the input rows from `first` that they are sums of."""

    start: int
    stop: int
    first: int
    weights: NDArray[np.float32]
    transposed: NDArray[np.float32]


def resized(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resample an image. Values may overshoot at edges, as the kernel has negative lobes.

    Args:
        image: (H, W) or (H, W, 3) float32.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        (height, width) or (height, width, 3).
    """
    rows, columns = image.shape[:2]
    flat = np.ascontiguousarray(image, np.float32).reshape(rows, -1)
    shorter = np.empty((height, flat.shape[1]), np.float32)
    for band in _bands(rows, height):
        np.matmul(
            band.weights,
            flat[band.first : band.first + band.weights.shape[1]],
            out=shorter[band.start : band.stop],
        )
    # Channels first, so that columns are the last axis of the second pass.
    planes = np.ascontiguousarray(np.moveaxis(shorter.reshape(height, columns, -1), 2, 0)).reshape(-1, columns)
    result = np.empty((len(planes), width), np.float32)
    for band in _bands(columns, width):
        np.matmul(
            planes[:, band.first : band.first + band.weights.shape[1]],
            band.transposed,
            out=result[:, band.start : band.stop],
        )
    if image.ndim == 2:
        return result
    return np.ascontiguousarray(np.moveaxis(result.reshape(-1, height, width), 0, 2))


def dense_weights(size: int, wanted: int) -> NDArray[np.float32]:
    """(wanted, size): the same weights as one matrix, for devices on which that is cheaper."""
    weights = np.zeros((wanted, size), np.float32)
    for band in _bands(size, wanted):
        weights[band.start : band.stop, band.first : band.first + band.weights.shape[1]] = band.weights
    return weights


@lru_cache(maxsize=64)
def _bands(size: int, wanted: int) -> tuple[_Band, ...]:
    scale = size / wanted
    stretch = max(1.0, scale)  # shrinking widens the kernel: that is the antialiasing
    centers = (np.arange(wanted) + 0.5) * scale
    firsts = np.maximum(0, (centers - _SUPPORT * stretch + 0.5).astype(np.int64))
    stops = np.minimum(size, (centers + _SUPPORT * stretch + 0.5).astype(np.int64))
    bands = []
    for start in range(0, wanted, _BLOCK):
        stop = min(wanted, start + _BLOCK)
        first, last = int(firsts[start:stop].min()), int(stops[start:stop].max())
        places = np.arange(first, last)
        weights = _cubic((places + 0.5 - centers[start:stop, None]) / stretch)
        weights[(places < firsts[start:stop, None]) | (places >= stops[start:stop, None])] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        single = weights.astype(np.float32)
        bands.append(_Band(start, stop, first, single, np.ascontiguousarray(single.T)))
    return tuple(bands)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel (IEEE Trans. ASSP 29(6), 1981)."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
