"""The model card: what a head is, how it was made and how far it can be trusted. It names no file and no person."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from services.training.bootstrap import Estimate
from services.training.metrics import Metrics


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
    """

    kind: Literal["folder", "archive", "phantom"]
    description: str
    sha256: str
    patients_known: bool
    split: str
    splits: dict[str, SplitFacts]
    leaks_found: dict[str, int] = {}
    cases_moved: int = 0


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
    """

    cases: int
    fitted_on: str
    offset: float
    temperature: float
    nll_before: float
    nll_after: float


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
        parts = (
            self._facts(),
            ["## Intended use", "", self.intended_use, ""],
            self._data(),
            self._results(),
            self._search(),
            self._shortcuts(),
            ["## Limits", "", *(f"- {limit}" for limit in self.limits), ""],
        )
        return "\n".join(line for part in parts for line in part)

    def _facts(self) -> list[str]:
        chosen, calibration, point = self.choices, self.calibration, self.operating_point
        calibrated = (
            "none: this head must not go live"
            if calibration is None
            else f"temperature {calibration.temperature:.3f}, offset {calibration.offset:.3f}, on {calibration.cases} "
            f"{calibration.fitted_on}; negative log-likelihood {calibration.nll_before:.3f}, then "
            f"{calibration.nll_after:.3f}"
        )
        far = "" if point.ood_distance_above is None else f", or above distance {point.ood_distance_above:.3f}"
        reached = "" if point.is_reached else " (not reached: half are left to a person)"
        rows = {
            "head": f"`{self.head_id}`, file sha256 `{self.head_sha256}`",
            "backbone": f"`{self.backbone_id}`, frozen",
            "fit": f"logistic regression on {chosen.reads}, C = {chosen.regularisation:g}, chosen by "
            f"{chosen.folds}-fold cross-validation grouped by {chosen.grouped_by}; seed {chosen.seed}",
            "calibration": calibrated,
            "abstains": f"below confidence {point.abstain_below:g}, for {point.aim} {point.target:g} of the answered"
            f"{reached}: answers {_percent(point.coverage)}, right in {_percent(point.accuracy_answered)} of these"
            f"{far}",
            "licence": self.licence,
            "rebuild": f"`{self.rebuild}`",
            "made with": ", ".join(f"{name} {version}" for name, version in self.software.items()),
        }
        return [
            f"# Model card: {self.name}",
            "",
            f"**{self.notice}**",
            "",
            f"{self.title}. Classes: {', '.join(self.labels)}.",
            "",
            *_table(("", ""), rows.items()),
            "",
        ]

    def _data(self) -> list[str]:
        data = self.data
        rows = [
            (name, part.cases, part.patients, part.frames, *(part.labels.get(label, 0) for label in self.labels))
            for name, part in data.splits.items()
        ]
        leaks = ", ".join(f"{count} x {kind}" for kind, count in data.leaks_found.items()) or "none"
        return [
            "## Data",
            "",
            f"From {data.description}. Split {data.split}. sha256 of splits, labels and files `{data.sha256}`.",
            "",
            *_table(("split", "cases", "patients", "frames", *self.labels), rows),
            "",
            "Leakage between splits (same patient, file or pixels, near duplicates): "
            + (leaks + (f"; {data.cases_moved} cases were moved." if data.cases_moved else ".")),
            *(
                []
                if data.patients_known
                else ["", "Patients are not known: each study counts as a patient of its own."]
            ),
            "",
        ]

    def _results(self) -> list[str]:
        return [
            f"## {'Phantom results' if self.data.kind == 'phantom' else 'Results'}",
            "",
            "With 95 % bootstrap intervals over patients. *Answered* are the studies that the task does not abstain",
            "from for low confidence.",
            "",
            *evaluation_table(self.evaluations),
            "",
            f"Nearest neighbours instead of the probe (k = {self.choices.neighbours}, test): study accuracy "
            f"{self.neighbours.accuracy}.",
            "",
            "![ROC](figures/roc.png) ![Confusion](figures/confusion.png) ![Reliability](figures/reliability.png)",
            "",
            *(line for evaluation in self.evaluations for line in _confusion(evaluation, self.labels)),
            *self._subgroups(),
        ]

    def _subgroups(self) -> list[str]:
        if not self.subgroups:
            return []
        rows = [(group.trait, group.value, group.cases, group.accuracy) for group in self.subgroups]
        return ["### Subgroups (test)", "", *_table(("trait", "value", "cases", "study accuracy"), rows), ""]

    def _search(self) -> list[str]:
        search = self.search
        return [
            "## Search",
            "",
            f"Share of the {search.at} nearest cases of other patients that are of the query's class ({search.cases} "
            f"test cases, one frame each): {search.task_space:.3f} in the task's own space of {search.dimensions} "
            f"dimensions, {search.raw:.3f} by plain cosine, {search.chance:.3f} by chance.",
            "",
        ]

    def _shortcuts(self) -> list[str]:
        if not self.shortcut_baselines:
            return []
        rows = [(name, metrics.accuracy) for name, metrics in self.shortcut_baselines.items()]
        return [
            "## Shortcut check",
            "",
            "The same probe on features that see no lesion shape; chance is "
            f"{1 / len(self.labels):.2f}. Far above chance would mean that the images give their class away.",
            "",
            *_table(("features", "study accuracy"), rows),
            "",
        ]


def evaluation_table(evaluations: tuple[Evaluation, ...]) -> list[str]:
    """One line of figures per evaluation, as a Markdown table."""
    header = (
        "set", "studies", "study accuracy", "balanced", "macro AUROC", "ECE", "Brier", "answered",
        "accuracy of answers", "frame accuracy", "called unfamiliar",
    )  # fmt: skip
    rows = [
        (
            e.title,
            e.study.n,
            e.study.accuracy,
            e.study.balanced_accuracy,
            e.study.auroc_macro or "-",
            f"{e.study.ece:.3f}",
            e.study.brier or "-",
            _percent(e.study.coverage),
            _percent(e.study.accuracy_answered),
            e.frame.accuracy if e.frame else "-",
            _percent(e.flagged_unfamiliar),
        )
        for e in evaluations
    ]
    return _table(header, rows)


def _confusion(evaluation: Evaluation, labels: tuple[str, ...]) -> list[str]:
    study = evaluation.study
    rows = [(label, *row, _percent(study.recall[label])) for label, row in zip(labels, study.confusion, strict=True)]
    return [f"### {evaluation.title}", "", *_table(("true \\ predicted", *labels, "recall"), rows), ""]


def _table(header: tuple[Any, ...], rows: Any) -> list[str]:
    return [
        f"| {' | '.join(map(str, header))} |",
        "|---" * len(header) + "|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
