"""Smooth random fields on a slab of slices: the ingredient of warps, bias, irregular borders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Sample positions in mm from the head's centre, RAS: `z` (N,), `y` (H,), `x` (W,)."""

    z: NDArray[np.float64]
    y: NDArray[np.float64]
    x: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)."""
        return len(self.z), len(self.y), len(self.x)

    def points(self) -> NDArray[np.float64]:
        """(3, N, H, W): x, y, z of every sample."""
        z, y, x = np.meshgrid(self.z, self.y, self.x, indexing="ij")
        return np.stack([x, y, z])


def _basis(positions_mm: NDArray[np.float64], spacing_mm: float) -> NDArray[np.float64]:
    """Uniform cubic B-spline weights (P, K) of K control points spread `spacing_mm` apart over the positions."""
    first = np.floor(positions_mm.min() / spacing_mm) - 1
    last = np.ceil(positions_mm.max() / spacing_mm) + 1
    t = np.abs(positions_mm[:, None] / spacing_mm - np.arange(first, last + 1))
    near = 2 / 3 - t**2 + t**3 / 2
    far = (2 - t) ** 3 / 6
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def smooth_field(rng: np.random.Generator, grid: Grid, correlation_mm: float) -> NDArray[np.float32]:
    """A field (N, H, W) of about unit variance whose values `correlation_mm` apart are nearly independent."""
    bases = [_basis(axis, correlation_mm) for axis in (grid.z, grid.y, grid.x)]
    values = rng.standard_normal([basis.shape[1] for basis in bases])
    for basis in bases:
        values = np.tensordot(values, basis, axes=(0, 1))  # consumes the first axis, appends the new one
    # White noise through three cubic B-splines: each scales the standard deviation by about .69 (mean square .479).
    field: NDArray[np.float32] = (values / 0.479**1.5).astype(np.float32)
    return field
