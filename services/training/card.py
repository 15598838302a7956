"""The model card: what a head is, how it was made and how far it can be trusted."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from services.training.metrics import Metrics


class CardModel(BaseModel):
    """A frozen value of the card."""

    model_config = ConfigDict(frozen=True)


class AnatomySource(CardModel):
    """One anatomy that phantoms were built on."""

    name: str
    sha256: str


class TrainingData(CardModel):
    """The recipe of the training data: with the code, all that is needed to make it again."""

    recipe_version: int
    anatomy: AnatomySource
    contrast: float
    first_seed: int
    training_subjects: int
    calibration_subjects: int
    test_subjects: int
    training_frames: int


class OperatingPoint(CardModel):
    """When the task abstains, and what that gave on the calibration studies."""

    abstain_below: float
    coverage: float
    accuracy_answered: float | None
    ood_distance_above: float


class Evaluation(CardModel):
    """Figures on one set of studies that training never saw."""

    title: str
    anatomy: AnatomySource
    contrast: float
    study: Metrics
    frame: Metrics
    flagged_unfamiliar: float


class ModelCard(CardModel):
    """A head's card, kept as JSON and as Markdown beside it."""

    name: str
    title: str
    notice: str
    head_id: str
    head_sha256: str
    backbone_id: str
    labels: tuple[str, ...]
    data: TrainingData
    regularisation: float
    temperature: float
    operating_point: OperatingPoint
    evaluations: tuple[Evaluation, ...]
    shortcut_baselines: dict[str, Metrics]
    intended_use: str
    limits: tuple[str, ...]
    licence: str
    rebuild: str
    software: dict[str, str]

    def markdown(self) -> str:
        """The card as Markdown."""
        data, point = self.data, self.operating_point
        lines = [
            f"# Model card: {self.name}",
            "",
            f"**{self.notice}**",
            "",
            f"{self.title}. Classes: {', '.join(self.labels)}.",
            "",
            "| | |",
            "|---|---|",
            f"| head | `{self.head_id}`, file sha256 `{self.head_sha256}` |",
            f"| backbone | `{self.backbone_id}`, frozen |",
            f"| data | phantom recipe {data.recipe_version} on {data.anatomy.name} (sha256 `{data.anatomy.sha256}`), "
            f"contrast {data.contrast:g} |",
            f"| virtual subjects | {data.training_subjects} training ({data.training_frames} frames), "
            f"{data.calibration_subjects} calibration, {data.test_subjects} test; seeds from {data.first_seed} |",
            f"| fit | logistic regression, C = {self.regularisation:g}, chosen by subject-grouped cross-validation |",
            f"| calibration | temperature {self.temperature:.3f}, on study scores of the calibration subjects |",
            f"| abstains | below confidence {point.abstain_below:g} (calibration subjects: answers "
            f"{_percent(point.coverage)}, right in {_percent(point.accuracy_answered)} of these) or above "
            f"distance {point.ood_distance_above:.3f} |",
            f"| licence | {self.licence} |",
            f"| rebuild | `{self.rebuild}` |",
            f"| made with | {', '.join(f'{name} {version}' for name, version in self.software.items())} |",
            "",
            "## Intended use",
            "",
            self.intended_use,
            "",
            "## Phantom results",
            "",
            "Accuracy with 95 % bootstrap intervals over subjects. *Answered* are the studies that the task does not",
            "abstain from for low confidence.",
            "",
            *evaluation_table(self.evaluations),
            "",
            *(line for evaluation in self.evaluations for line in _detail(evaluation, self.labels)),
            "## Shortcut check",
            "",
            "The same probe on features that see no lesion shape; chance is "
            f"{1 / len(self.labels):.2f}. Far above chance would mean that the phantom gives its class away.",
            "",
            "| features | study accuracy |",
            "|---|---|",
            *(f"| {name} | {metrics.accuracy} |" for name, metrics in self.shortcut_baselines.items()),
            "",
            "## Limits",
            "",
            *(f"- {limit}" for limit in self.limits),
            "",
        ]
        return "\n".join(lines)


def evaluation_table(evaluations: tuple[Evaluation, ...]) -> list[str]:
    """One line of figures per evaluation, as a Markdown table."""
    return [
        "| set | studies | study accuracy | balanced | ECE | answered | accuracy of answers | frame accuracy "
        "| called unfamiliar |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {e.title} ({e.anatomy.name}, contrast {e.contrast:g}) | {e.study.n} | {e.study.accuracy} "
            f"| {e.study.balanced_accuracy} | {e.study.ece:.3f} | {_percent(e.study.coverage)} "
            f"| {_percent(e.study.accuracy_answered)} | {e.frame.accuracy} | {_percent(e.flagged_unfamiliar)} |"
            for e in evaluations
        ),
    ]


def _detail(evaluation: Evaluation, labels: tuple[str, ...]) -> list[str]:
    study = evaluation.study
    return [
        f"### {evaluation.title}: {evaluation.anatomy.name}, contrast {evaluation.contrast:g}",
        "",
        f"| true \\ predicted | {' | '.join(labels)} | recall |",
        "|---" * (len(labels) + 2) + "|",
        *(
            f"| {label} | {' | '.join(map(str, row))} | {_percent(study.recall[label])} |"
            for label, row in zip(labels, study.confusion, strict=True)
        ),
        "",
    ]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
