"""Bilinear up-sampling as two matrices, so that what is linear can be worked out on the feature grid.

A map f (h, w) becomes U f V^T (H, W), and the rows of U and V sum to one. So sums, shifts and scales of
full-size maps, their inner products and their extremes need no full-size map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class Upsampling:
    """From (h, w) to (H, W), align_corners=False, in float64.

    Attributes:
        u: (H, h).
        v: (W, w).
    """

    u: Tensor
    v: Tensor

    @classmethod
    def between(cls, grid: tuple[int, int], size: tuple[int, int]) -> Upsampling:
        """Up-sampling of a `grid` (h, w) to a `size` (H, W), at least as large."""
        return cls(_axis(grid[0], size[0]), _axis(grid[1], size[1]))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.u.shape[0], self.v.shape[0]

    def __call__(self, maps: Tensor) -> Tensor:
        """(..., H, W) of (..., h, w)."""
        return self.u @ maps @ self.v.T

    def to(self, device: torch.device) -> Upsampling:
        """The same on `device`."""
        return Upsampling(self.u.to(device), self.v.to(device))

    def inner_products(self, maps: Tensor) -> Tensor:
        """(K, K) inner products of the K up-sampled maps: <U f V^T, U g V^T> = <f, (U^T U) g (V^T V)>."""
        weighted = (self.u.T @ self.u) @ maps @ (self.v.T @ self.v)
        return maps.flatten(1) @ weighted.flatten(1).T

    def spanning_0_to_1(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale each map so that, up-sampled, it spans 0 to 1.

        Returns the maps that vary, (K, h, w), and which of all do. An up-sampled map is bilinear within each cell
        of the grid, so its extremes lie on the first or last sample of some cell.
        """
        corners = self.u[_cell_ends(self.u)] @ maps @ self.v[_cell_ends(self.v)].T
        low, high = corners.amin(dim=(1, 2)), corners.amax(dim=(1, 2))
        # Features are float32: a spread below their rounding is none.
        rounding = 4 * torch.finfo(torch.float32).eps * corners.abs().amax(dim=(1, 2))
        varies = high - low > rounding
        low, high = low[varies, None, None], high[varies, None, None]
        return (maps[varies] - low) / (high - low), varies


def _axis(samples: int, size: int) -> Tensor:
    """The matrix (size, samples) of one axis; its rows sum to 1."""
    identity = torch.eye(samples, dtype=torch.float64)
    return interpolate(identity[None], size=size, mode="linear", align_corners=False)[0].T.contiguous()


def _cell_ends(u: Tensor) -> Tensor:
    """Which rows of an up-sampling matrix are the first or last sample between two grid points, (size,)."""
    cell = (u > 0).int().argmax(dim=1)
    changes = cell[1:] != cell[:-1]
    end = torch.ones(1, dtype=torch.bool)
    return torch.cat([end, changes]) | torch.cat([changes, end])
