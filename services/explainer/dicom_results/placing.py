"""From the map's grid to the pixels of the source frame: the affine, the resampled map, the top region.

The frame fills the letterbox `top, left, height, width` of the grid. With the centre of the first pixel
at (0, 0), grid point (u, v), row and column, lies on the source pixel

    row    = (u - top  + 1/2) * Rows    / height - 1/2
    column = (v - left + 1/2) * Columns / width  - 1/2

The source pixel's place in the patient is PS3.3 equation C.7.6.2.1-1, so a result on the source's pixels
has the source's own geometry. The bars beside the letterbox belong to no pixel and are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.vision.transform import Letterbox

Floats = NDArray[np.float32]


def grid_to_source(box: Letterbox, rows: int, columns: int) -> NDArray[np.float64]:
    """The affine (3, 3) that takes (u, v, 1) on the map's grid to (row, column, 1) on the source frame."""
    down, across = rows / box.height, columns / box.width
    return np.array(
        [
            [down, 0.0, (0.5 - box.top) * down - 0.5],
            [0.0, across, (0.5 - box.left) * across - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


def on_source_pixels(saliency: Floats, box: Letterbox, rows: int, columns: int) -> Floats:
    """The map (H, W) at the centres of the source's pixels, (rows, columns): bilinear, no value beyond its neighbours.

    Raises:
        ValueError: the letterbox is not within the map, or a value is not finite.
    """
    if not np.isfinite(saliency).all():
        raise ValueError("the map has values that are not finite")
    if (
        min(box.top, box.left) < 0
        or box.top + box.height > saliency.shape[0]
        or box.left + box.width > saliency.shape[1]
    ):
        raise ValueError(f"{box} is not within a map of {saliency.shape}")
    content = saliency[box.top : box.top + box.height, box.left : box.left + box.width]
    return np.ascontiguousarray(_along_rows(_along_rows(content, rows).T, columns).T)


def _along_rows(values: Floats, wanted: int) -> Floats:
    """Bilinear along the first axis. Beyond the outer centres the outer value holds."""
    size = values.shape[0]
    at = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0.0, size - 1.0)
    low = np.minimum(at.astype(np.int64), max(size - 2, 0))
    # In this order what is the same on both sides stays exactly that, and large frames need two arrays, no more.
    mixed: Floats = values[np.minimum(low + 1, size - 1)]
    mixed -= values[low]
    mixed *= (at - low).astype(np.float32)[:, None]
    mixed += values[low]
    return mixed


def top_region(placed: Floats, share: float) -> NDArray[np.bool_]:
    """Where the map is at least its mean + `share` of the way from its mean to its greatest value.

    The overlay's colours begin at the mean as well. A map that is the same everywhere has no top region: all False.
    """
    if not 0.0 < share < 1.0:
        raise ValueError("the share must lie between 0 and 1")
    mean, most = float(placed.mean(dtype=np.float64)), float(placed.max())
    if not most > mean:
        return np.zeros(placed.shape, np.bool_)
    region: NDArray[np.bool_] = placed >= mean + share * (most - mean)
    # float32 rounding of a flat map is no region either
    return region if not region.all() else np.zeros(placed.shape, np.bool_)
