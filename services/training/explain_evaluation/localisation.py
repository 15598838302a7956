"""Does a map point at the lesion? Four figures of one map and one exact mask.

They say whether the map is where the lesion is. Whether the model used the lesion is what insertion and deletion ask.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.measures.scores import auroc
from shared.saliency.faithfulness_games import ranked
from shared.vision.transform import Letterbox

FIGURES: Final = {
    "pointing": "the highest pixel lies in the lesion (Zhang et al. 2016, without their margin)",
    "energy": "share of what rises above the frame's mean that lies in the lesion (after Wang et al. 2020)",
    "auroc": "a lesion pixel is above another pixel of the frame",
    "iou": "overlap of the lesion with as many of the highest pixels as it has",
}


def localise(
    values: NDArray[np.float32], mask: NDArray[np.bool_], content: Letterbox, *, seed: int = 0
) -> dict[str, float]:
    """The four figures, 0 to 1; equal pixels are taken in random order.

    Args:
        values: (S, S), the map.
        mask: (S, S), the lesion, at least a pixel of it in the frame.
        content: Where the frame lies; the bars around it do not count.
        seed: Of the order of equal pixels.
    """
    at = np.s_[content.top : content.top + content.height, content.left : content.left + content.width]
    inside, lesion = values[at], mask[at]
    rank = ranked(inside, np.random.default_rng(seed))
    rise = np.maximum(inside.astype(np.float64) - inside.mean(dtype=np.float64), 0)
    overlap = int((lesion & (rank < lesion.sum())).sum())
    return {
        "pointing": float(lesion[rank == 0][0]),
        # A map that is the same everywhere has its energy everywhere.
        "energy": float(rise[lesion].sum() / rise.sum()) if rise.any() else float(lesion.mean()),
        "auroc": auroc(inside.ravel().astype(np.float64), lesion.ravel()),
        "iou": overlap / (2 * int(lesion.sum()) - overlap),
    }
