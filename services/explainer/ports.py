"""What the explainer needs from outside, besides the archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.pixels.frame import Frame
from shared.vision.heads import LinearHead
from shared.vision.transform import Letterbox


@dataclass(frozen=True, slots=True)
class FrameExplanation:
    """Why a head gives a frame a class.

    Attributes:
        values: float32 (H, W), the signed map on the model's input grid.
        mask_count: N in the paper.
        probability: The target's probability on the undisturbed frame.
        letterbox: Where the frame lies on the grid.
        parameters: What else reproduces the map, for its record.
    """

    values: NDArray[np.float32]
    mask_count: int
    probability: float
    letterbox: Letterbox
    parameters: dict[str, Any]


class FrameExplainer(Protocol):
    """Makes saliency maps. One call takes seconds to minutes; calls do not overlap."""

    @property
    def backbone_id(self) -> str:
        """The backbone whose decisions it explains."""

    @property
    def method(self) -> str:
        """The algorithm's name."""

    @property
    def mode(self) -> str:
        """How the algorithm is run."""

    def explain(self, frame: Frame, head: LinearHead, label: str, seed: int) -> FrameExplanation:
        """Map what in `frame` speaks for `label`. The same arguments give the same map.

        Raises:
            NotExplainableError: no map can be made of this frame.
        """
