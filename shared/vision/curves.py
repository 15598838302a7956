"""Curves of a head, kept beside its model card as `curves.json`: ROC, and how often a stated confidence is right.

Written by `similis train` from the same test studies as the card's first evaluation, and by `similis evaluate TASK
--out OUT` from the first set that it measured. Research use only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigurationError

CURVES_FILE: Final = "curves.json"

Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RocCurve(_Frozen):
    """One class against all others.

    Attributes:
        label: The class.
        auroc: Area under the curve; None where the set has no such study, or no other.
        points: (false positive rate, true positive rate), from none called positive to all.
    """

    label: str
    auroc: Share | None
    points: tuple[tuple[Share, Share], ...]


class ReliabilityBin(_Frozen):
    """Answers of about the same confidence.

    Attributes:
        confidence: Their mean top probability.
        accuracy: Share of them that is right.
        count: How many.
        low: Of the 95 % interval of `accuracy` (Wilson 1927).
        high: Likewise.
    """

    confidence: Share
    accuracy: Share
    count: int = Field(ge=1)
    low: Share
    high: Share


class Curves(_Frozen):
    """Both, of one head."""

    format: Literal["similis-curves-1"] = "similis-curves-1"
    notice: Literal["research use only"] = "research use only"
    head_id: str
    source: str | None = Field(None, description="The set of cases; None: that of the card's first evaluation.")
    roc: tuple[RocCurve, ...]
    calibration: tuple[ReliabilityBin, ...]

    @classmethod
    def load(cls, folder: Path, *, head_id: str) -> Curves | None:
        """The curves in a version's folder; None if there are none, or if they are of another head.

        Raises:
            ConfigurationError: they cannot be read.
        """
        path = folder / CURVES_FILE
        try:
            curves = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigurationError(f"{path} holds no curves: {error}") from error
        return curves if curves.head_id == head_id else None
