"""How a head is trained."""

from __future__ import annotations

from dataclasses import dataclass

from services.training.calibration import Aim
from services.training.fit import Grouping


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train.

    Attributes:
        seed: Of splits and folds.
        grouped_by: What cross-validation leaves out together: patients, or sources, where there are several.
        aim: What the answered cases are to reach.
        target: How much of it.
        fitted_frames: Most frames of a case that the probe is fitted on, where the frames' own labels are known.
        drop_duplicates: Move leaking cases into one split instead of refusing.
        cross_fitted: Calibrate on the left-out scores of training too, not on the calibration split alone.
        shortcuts: Whether the card shows what raw pixels and histograms reach.
        licence: Of the head.
        rebuild: The command that makes it again, without paths.
    """

    seed: int = 0
    grouped_by: Grouping = "patient"
    aim: Aim = "accuracy"
    target: float = 0.9
    fitted_frames: int = 4
    drop_duplicates: bool = False
    cross_fitted: bool = True
    shortcuts: bool = False
    licence: str = "not stated"
    rebuild: str = "not stated"
