"""What `similis evaluate` writes: all figures of one task's head, kept as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from services.training.measures.bootstrap import Estimate
from services.training.measures.metrics import Metrics


class ReportModel(BaseModel):
    """A frozen value of the report."""

    model_config = ConfigDict(frozen=True)


class RiskPoint(ReportModel):
    """Share of wrong answers when only the surest `coverage` of the studies is answered."""

    coverage: float
    risk: float


class SetFigures(ReportModel):
    """One set of cases that training never saw.

    Attributes:
        flagged: Share that the head calls out of distribution: false flags, since these cases are its own kind.
    """

    title: str
    metrics: Metrics
    risk: tuple[RiskPoint, ...]
    flagged: Estimate | None = None


class SubgroupFigures(ReportModel):
    """The cases of the first set that share a trait."""

    trait: str
    value: str
    n: int
    patients: int
    accuracy: Estimate
    auroc_finding: Estimate | None
    ece: float


class StrangeFigures(ReportModel):
    """One kind of image that the head must not judge.

    Attributes:
        auroc: Of the distance, these images against the fresh studies of the first set.
        flagged: Share above the head's limit.
        distance: Median.
        is_required: Whether the kind belongs to those that must be told apart; the others are reported.
    """

    kind: str
    n: int
    auroc: float
    flagged: Estimate
    distance: float
    is_required: bool


class ComparedFigures(ReportModel):
    """The same probe on other features, on the same training and test cases."""

    features: str
    dim: int | None
    accuracy: Estimate
    balanced_accuracy: Estimate
    auroc_macro: Estimate | None
    ece: float


class EvaluationReport(ReportModel):
    """All of it.

    Attributes:
        notice: What the figures may be used for.
        abstain_below: The operating point's confidence.
        ood_kind: How the out-of-distribution distance is made.
        compared_on: Training and test cases of the comparison.
        command: Makes the report again, without paths.
    """

    task: str
    title: str
    notice: str
    head_id: str
    backbone_id: str
    labels: tuple[str, ...]
    abstain_below: float
    ood_limit: float | None
    ood_kind: str | None
    sets: tuple[SetFigures, ...]
    subgroups: tuple[SubgroupFigures, ...] = ()
    strange: tuple[StrangeFigures, ...] = ()
    compared: tuple[ComparedFigures, ...] = ()
    compared_on: tuple[int, int] | None = None
    seed: int
    bootstraps: int
    command: str
