"""The model card: what a head is, how it was made and how far it can be trusted. It names no file and no person."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from services.training.measures.bootstrap import Estimate
from services.training.measures.metrics import Metrics


class CardModel(BaseModel):
    """A frozen value of the card."""

    model_config = ConfigDict(frozen=True)


class SplitFacts(CardModel):
    """What one split holds."""

    cases: int
    patients: int
    frames: int
    labels: dict[str, int]


class DataFacts(CardModel):
    """The data.

    Attributes:
        sha256: Over the sorted lines `<split> <label> <sha256 of an object>` of all cases.
        leaks_found: Pairs of cases by kind of leakage, before cases were moved.
        cases_moved: Cases that were moved into another split because of them.
        sources: What the images of all splits are built on or come from, as far as known; None: not told.
        held_out: Sources that no split has, measured apart.
        training_objects_sha256: Of the file of hashes that tells which images trained the head; None: not kept.
    """

    kind: Literal["folder", "archive", "phantom"]
    description: str
    sha256: str
    patients_known: bool
    split: str
    splits: dict[str, SplitFacts]
    leaks_found: dict[str, int] = {}
    cases_moved: int = 0
    sources: tuple[str, ...] | None = None
    held_out: tuple[str, ...] | None = None
    training_objects_sha256: str | None = None


class Choices(CardModel):
    """What was chosen by cross-validation within training, and the seed of it all.

    Attributes:
        reads: What the probe is fitted on, see `shared.vision.features` and `shared.vision.patch_lens`.
    """

    seed: int
    folds: int
    grouped_by: Literal["patient", "source"]
    regularisation: float
    reads: str
    neighbours: int
    projection_shrinkage: float
    projection_gain: float


class CalibrationFacts(CardModel):
    """How scores became probabilities.

    Attributes:
        cases: How many study scores it was fitted on.
        fitted_on: Which.
        nll_before: Mean negative log-likelihood of these, uncalibrated.
        nll_after: Calibrated.
        nll_prior: Of an answer that only knows how frequent each class is; None: not told.
        at_bound: Whether the fit ended at a limit of what it may choose, so that it found no best.
    """

    cases: int
    fitted_on: str
    offset: float
    temperature: float
    nll_before: float
    nll_after: float
    nll_prior: float | None = None
    at_bound: bool = False


class OperatingPoint(CardModel):
    """When the task abstains, and what that gave on the cases that calibrated it."""

    aim: Literal["accuracy", "sensitivity", "specificity"]
    target: float
    is_reached: bool
    abstain_below: float
    coverage: float
    accuracy_answered: float | None
    ood_distance_above: float | None


class Evaluation(CardModel):
    """Figures on one set of cases that training never saw."""

    title: str
    study: Metrics
    frame: Metrics | None = None
    flagged_unfamiliar: float | None = None


class SearchFacts(CardModel):
    """Precision by label among the nearest `at`, macro-averaged, one frame a case, other patients only, test split."""

    cases: int
    at: int
    raw: float
    task_space: float
    chance: float
    dimensions: int


class Subgroup(CardModel):
    """Test accuracy of the cases that share a trait."""

    trait: str
    value: str
    cases: int
    accuracy: Estimate


class ModelCard(CardModel):
    """A head's card, kept as JSON and as Markdown beside it."""

    name: str
    title: str
    notice: str
    head_id: str
    head_sha256: str
    definition_sha256: str
    backbone_id: str
    labels: tuple[str, ...]
    data: DataFacts
    choices: Choices
    calibration: CalibrationFacts | None
    operating_point: OperatingPoint
    evaluations: tuple[Evaluation, ...]
    neighbours: Metrics
    search: SearchFacts
    subgroups: tuple[Subgroup, ...] = ()
    shortcut_baselines: dict[str, Metrics] = {}
    intended_use: str
    limits: tuple[str, ...]
    licence: str
    rebuild: str
    software: dict[str, str]

    def markdown(self) -> str:
        """The card as Markdown."""
        from services.training.card.markdown import card_markdown

        return card_markdown(self)
