"""What `similis evaluate explain` writes, kept as JSON."""

from __future__ import annotations

from typing import Any, Final

from services.training.evaluation.report import ReportModel
from services.training.measures.bootstrap import Estimate

NOTICE: Final = "Research use only. No diagnostic device; these are phantom results."

FIGURES: Final = ("pointing", "energy", "auroc", "iou", "insertion", "deletion", "infidelity", "seed_stability")
LOWER_IS_BETTER: Final = frozenset({"deletion", "infidelity"})
_NAMES: Final = {"auroc": "AUROC", "iou": "IoU", "seed_stability": "seed stability"}


def figure_name(figure: str) -> str:
    """As people write it."""
    return _NAMES.get(figure, figure)


class MethodFigures(ReportModel):
    """One method on all frames.

    Attributes:
        figures: Means over the frames; null: not defined, such as the stability of what has no seed.
        forwards: Images that went through the backbone for one map, on average.
    """

    method: str
    figures: dict[str, Estimate | None]
    forwards: float


class Better(ReportModel):
    """A method that is better than ViT-CX at one figure.

    Attributes:
        by: Mean difference over the frames, positive, and its interval; see `is_clear`.
        is_clear: Whether the whole interval is on that side.
    """

    figure: str
    method: str
    by: Estimate
    is_clear: bool


class ReferenceFigures(ReportModel):
    """ViT-CX's maps beside the random-weight reference.

    Attributes:
        leads: Over chance, of each frame's map, ascending.
        ranges: Of each frame's map, ascending, in probability.
        limit: What a lead must exceed; null: the version has no reference that fits.
        statuses: How many maps, by the values of `shared.events.Reliability`.
        reference: What they were compared with, in words.
    """

    leads: tuple[float, ...]
    ranges: tuple[float, ...]
    limit: float | None
    statuses: dict[str, int]
    reference: str


class ExplainReport(ReportModel):
    """All of it.

    Attributes:
        frames: Explained, one of each study.
        left_out: Frames that the head does not give their true class: there is no decision for it to explain.
        area: Median share of a frame that is lesion: what energy and pointing are by chance.
        chance: Insertion and deletion of random orders.
        ends: Mean probability of the frames as they are, blurred, and filled.
        methods: ViT-CX first.
        better: Where ViT-CX, the first method, is not the best.
        faithfulness: How insertion and deletion were measured.
        command: Makes the report again, without paths.
    """

    task: str
    title: str
    notice: str = NOTICE
    head_id: str
    backbone_id: str
    mode: str
    frames: int
    patients: int
    left_out: int
    area: float
    chance: dict[str, Estimate | None]
    ends: dict[str, float]
    methods: tuple[MethodFigures, ...]
    better: tuple[Better, ...]
    beside_random: ReferenceFigures
    faithfulness: dict[str, Any]
    seed: int
    bootstraps: int
    command: str
