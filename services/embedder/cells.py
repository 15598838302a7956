"""A frame cut into cells for the search by region: which patches make a cell, and which cells show something.

A cell has the patches that a search by its box takes, so one picture gives one vector on either side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.vector_index.port import Region
from shared.vision.patch_grid import PatchGrid
from shared.vision.transform import Letterbox

KEPT_BYTES_MAX: Final = 64 * 1024**2
"""Of one study's cells while it is embedded. Which frames are evidence is known at its end only, so the cells of all
are kept: of 2,730 frames for a 4 x 4 grid of 384 figures. Of a longer study as many frames are kept, evenly."""


@dataclass(frozen=True, slots=True)
class ShownCells:
    """The C cells of a frame that show something.

    Attributes:
        numbers: Which they are, row by row from 0.
        weights: (C, P) float32; its product with the (P, D) patch tokens is each cell's mean.
    """

    numbers: tuple[int, ...]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CellGrid:
    """`side` x `side` cells over a frame's content; `patches_side` x `patches_side` patches over the model's input."""

    side: int
    patches_side: int

    def boxes(self) -> tuple[Region, ...]:
        """Where each cell lies on the frame."""
        edges = [number / self.side for number in range(self.side + 1)]
        spans = list(pairwise(edges))
        return tuple(
            Region(left=left, top=top, width=right - left, height=bottom - top)
            for top, bottom in spans
            for left, right in spans
        )

    def shown(self, square: NDArray[np.float32], content: Letterbox) -> ShownCells:
        """The cells with a patch that is not dark and even.

        Args:
            square: (S, S) grey or (S, S, 3) RGB in [0, 1].
            content: The frame's place in it.
        """
        grid = PatchGrid(self.patches_side, square.shape[0], content)
        weights = _weights(self, grid)
        is_shown = weights @ grid.foreground(square).astype(np.float32) > 0
        return ShownCells(tuple(np.flatnonzero(is_shown).tolist()), weights[is_shown])

    def frames_kept_max(self, dim: int) -> int:
        """How many frames' cells of `dim` float32 figures fit into `KEPT_BYTES_MAX`; at least 1."""
        return max(1, KEPT_BYTES_MAX // (self.side**2 * dim * 4))


@lru_cache(maxsize=64)
def _weights(cells: CellGrid, grid: PatchGrid) -> NDArray[np.float32]:
    """(side * side, P): each cell's share of each patch."""
    boxes = cells.boxes()
    weights = np.zeros((len(boxes), grid.side**2), np.float32)
    for row, box in zip(weights, boxes, strict=True):
        found = grid.within(box)
        row[found] = 1 / len(found)
    weights.flags.writeable = False
    return weights
