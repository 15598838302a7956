"""How a head is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.training.fit.calibration import Aim
from services.training.fit.linear_probe import Grouping
from shared.errors import ConfigurationError

MOST_SEED: Final = 99_999  # above it the seeds of training's phantoms would be those of evaluation
MOST_HELD_OUT: Final = 999_999  # more would reach into the next seed's phantoms
MOST_CONTRAST: Final = 8.0  # what every phantom recipe takes


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


def check_seed(seed: int) -> None:
    """Refuse a seed whose phantoms would be another run's.

    Raises:
        ConfigurationError: it is out of range.
    """
    if not 0 <= seed <= MOST_SEED:
        raise ConfigurationError(f"--seed must lie between 0 and {MOST_SEED:,}, not at {seed}")


def check_contrast(contrast: float) -> None:
    """Refuse a contrast that no phantom recipe takes.

    Raises:
        ConfigurationError: it is out of range, or no number.
    """
    if not 0 < contrast <= MOST_CONTRAST:
        raise ConfigurationError(f"--contrast must lie above 0 and be at most {MOST_CONTRAST:g}, not {contrast:g}")


def refuse_without(needed: str, is_given: bool, options: Mapping[str, bool]) -> None:
    """Refuse options that have no effect, so that nobody believes they had one.

    Args:
        needed: The option that they need.
        is_given: Whether it is there.
        options: Whether each was given.

    Raises:
        ConfigurationError: one was, without what it needs.
    """
    if not is_given and (idle := [name for name, given in options.items() if given]):
        raise ConfigurationError(f"{', '.join(idle)} has no effect without {needed}")
