"""Where patch tokens lie on a frame: the letterbox, undone. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.pixels.frame import Frame
from shared.vector_index.port import Region
from shared.vision.transform import Letterbox, letterbox_box

DARK: Final = 0.08
"""Mean of a background patch, at most, of 1."""
FLAT: Final = 0.03
"""Standard deviation of a background patch, at most, of 1. In six phantom MR frames that of the noise around a head is
.011 to .028, that of a patch with an edge of the head .044 and more."""


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """A square grid of `side` x `side` patches over a model's input of `size_px`, and the frame's place on it."""

    side: int
    size_px: int
    content: Letterbox

    def __post_init__(self) -> None:
        """Refuse patches that are not whole pixels: ValueError."""
        if self.side < 1 or self.size_px % self.side:
            raise ValueError(f"{self.size_px} px are no multiple of {self.side} patches")

    @classmethod
    def of(cls, frame: Frame, *, patches: int, size_px: int) -> PatchGrid:
        """The grid of a frame whose `patches` tokens come from an input of `size_px`.

        Raises:
            ValueError: `patches` is no square number, or its root does not divide `size_px`.
        """
        side = math.isqrt(patches)
        if side * side != patches:
            raise ValueError(f"{patches} patches are no square grid")
        height, width = frame.pixels.shape[:2]
        return cls(side, size_px, letterbox_box(height, width, frame.pixel_aspect, size_px))

    def centres(self) -> NDArray[np.float64]:
        """(P, 2) x and y of the patches' centres, row by row, in shares of the frame; outside of 0..1 is letterbox."""
        middle = (np.arange(self.side) + 0.5) * self.size_px / self.side
        x = (middle - self.content.left) / self.content.width
        y = (middle - self.content.top) / self.content.height
        return np.stack([np.tile(x, self.side), np.repeat(y, self.side)], axis=1)

    def inside(self) -> NDArray[np.bool_]:
        """(P,) the patches whose centre lies on the frame."""
        centres = self.centres()
        return np.asarray(((centres >= 0) & (centres <= 1)).all(axis=1))

    def within(self, region: Region) -> NDArray[np.intp]:
        """The patches on the frame whose centre lies in `region`; the one nearest to its middle if there is none."""
        centres = self.centres()
        low = np.array([region.left, region.top])
        high = low + np.array([region.width, region.height])
        found = np.flatnonzero(((centres >= low) & (centres <= high)).all(axis=1) & self.inside())
        if found.size:
            return found
        away = ((centres - (low + high) / 2) * [self.content.width, self.content.height]) ** 2
        distance = away.sum(axis=1)
        if self.inside().any():
            distance[~self.inside()] = np.inf
        return np.array([int(distance.argmin())], np.intp)

    def box(self, cells: NDArray[np.intp]) -> Region:
        """The smallest region of the frame that holds these patches."""
        rows, columns = np.divmod(cells, self.side)
        px = self.size_px / self.side
        left, right = self._shares(columns, px, self.content.left, self.content.width)
        top, bottom = self._shares(rows, px, self.content.top, self.content.height)
        return Region(left=left, top=top, width=right - left, height=bottom - top)

    def foreground(self, square: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(P,) patches on the frame that are not dark and even, as air around a body is.

        Args:
            square: The letterboxed frame, (S, S) grey or (S, S, 3) RGB in [0, 1]; S is `size_px`.
        """
        grey = square if square.ndim == 2 else square.mean(axis=2)
        mean = self._means(grey)
        # Precise enough where it counts: a dark patch's squares are small.
        variance = self._means(grey * grey) - mean * mean
        return np.asarray(self.inside() & ~((mean <= DARK) & (variance <= FLAT**2)))

    def _means(self, square: NDArray[np.float32]) -> NDArray[np.float32]:
        """(P,) of each patch of an (S, S) square; rows first, which is several times as fast as both at once."""
        px = self.size_px // self.side
        of_columns = square.reshape(self.side, px, self.size_px).mean(axis=1)
        means: NDArray[np.float32] = of_columns.reshape(self.side**2, px).mean(axis=1)
        return means

    def _shares(self, cells: NDArray[np.intp], px: float, start: int, length: int) -> tuple[float, float]:
        low = (float(cells.min()) * px - start) / length
        high = ((float(cells.max()) + 1) * px - start) / length
        return min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)
