"""What every adapter holds its vectors to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidVectorError
from shared.vector_index.port import FramePoint


def checked(vector: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The vector as contiguous float32, (D,).

    The engines take NaN and zero vectors silently and then answer nonsense, so they are refused here.

    Raises:
        InvalidVectorError: it is NaN, infinite, zero, or not of shape (`dim`,).
    """
    array = np.ascontiguousarray(vector, dtype=np.float32)
    if array.shape != (dim,):
        raise InvalidVectorError(f"a vector of shape {array.shape} where ({dim},) is expected")
    norm = float(np.linalg.norm(array.astype(np.float64)))
    if not np.isfinite(norm):
        raise InvalidVectorError("a vector holds NaN or infinity")
    if norm < np.finfo(np.float32).tiny:
        raise InvalidVectorError("a vector is zero")
    return array


def checked_points(points: Sequence[FramePoint], dim: int) -> NDArray[np.float32]:
    """The points' vectors, (N, D) float32.

    Raises:
        InvalidVectorError: one of them is not valid; the message names the point.
    """
    if points and all(np.shape(point.vector) == (dim,) for point in points):
        rows = np.array([point.vector for point in points], dtype=np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        if np.isfinite(norms).all() and (norms >= np.finfo(np.float32).tiny).all():
            return rows
    rows = np.empty((len(points), dim), dtype=np.float32)
    for row, point in zip(rows, points, strict=True):
        try:
            row[:] = checked(point.vector, dim)
        except InvalidVectorError as error:
            raise InvalidVectorError(f"point {point.id}: {error}") from error
    return rows


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of L2 norm 1 along the last axis, (..., D): what the engines store for cosine similarity."""
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)
    return unit


def cosine(score: float) -> float:
    """A score within -1 to 1: float32 sums of unit vectors leave it by a rounding error."""
    return min(1.0, max(-1.0, float(score)))
