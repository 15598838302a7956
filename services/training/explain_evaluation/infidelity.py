"""Infidelity (Yeh et al., NeurIPS 2019): does the sum of a map over what is removed tell by how much the answer drops?

    min over a >= 0 and b of  E_I [(a I . map + b - d_I)^2] / Var_I [d_I],      d_I = p_c(x) - p_c(x without I)

I are equal squares at random places of the frame, the same for all maps of it. The scale a and the offset b are free,
since the maps that are set beside each other have neither in common; so it is 1 - r^2, or 1 where r < 0.
0: the map tells every drop; 1: it tells no more than the mean drop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.saliency.heads import Scorer
from shared.saliency.maps import finite
from shared.vision.transform import Letterbox

SQUARES: Final = 64
SIDE: Final = 0.2
"""Of the frame's shorter side."""


@dataclass(frozen=True, slots=True, eq=False)
class Removals:
    """What was removed from one image, and what that did.

    Attributes:
        corners: (K, 2) int64, row and column of each square's first pixel.
        side_px: Of all squares.
        drops: (K,) p_c(x) - p_c(x without the square).
    """

    corners: NDArray[np.int64]
    side_px: int
    drops: NDArray[np.float64]


def removals(
    scorer: Scorer,
    x: Tensor,
    target: int,
    content: Letterbox,
    *,
    seed: int,
    count: int = SQUARES,
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
    batch_size: int = 8,
) -> Removals:
    """Remove `count` squares, one at a time. 1 + count images go through the model.

    Args:
        scorer: Of the model that is explained.
        x: (3, H, W), normalised, on the scorer's device.
        target: The explained class c.
        content: Where the frame lies in x.
        seed: Of the places.
        count: K, at least 3.
        fill: What stands in a square, per channel, in normalised pixel units.
        batch_size: Images in one forward pass.

    Raises:
        NotExplainableError: a score is not finite.
    """
    side = max(1, round(SIDE * min(content.height, content.width)))
    random = np.random.default_rng([seed, 2])
    rows = content.top + random.integers(0, content.height - side + 1, count)
    columns = content.left + random.integers(0, content.width - side + 1, count)
    corners = np.stack([rows, columns], axis=1).astype(np.int64)

    def images() -> Iterator[Tensor]:
        yield x
        for row, column in corners.tolist():
            without = x.clone()
            without[:, row : row + side, column : column + side] = x.new_tensor(fill)[:, None, None]
            yield without

    found: list[float] = []
    waiting = images()
    with torch.inference_mode():
        while batch := [image for _, image in zip(range(batch_size), waiting, strict=False)]:
            found += finite(scorer(torch.stack(batch)))[:, target].double().tolist()
    return Removals(corners, side, found[0] - np.array(found[1:]))


def infidelity(values: NDArray[np.float32], removed: Removals) -> float:
    """0 to 1 of a map (H, W), the lower the better; 1 of one that is the same everywhere; NaN if no square matters."""
    side = removed.side_px
    sums = np.array(
        [values[row : row + side, column : column + side].sum(dtype=np.float64) for row, column in removed.corners]
    )
    sums, drops = sums - sums.mean(), removed.drops - removed.drops.mean()
    if not drops.any():
        return float("nan")
    norms = float(np.linalg.norm(sums) * np.linalg.norm(drops))
    r = float(sums @ drops) / norms if norms > 0 else 0.0
    return 1.0 - min(max(r, 0.0), 1.0) ** 2
