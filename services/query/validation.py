"""How good the installed heads are, as their own files say: model card, curves, and the report of retrieval.

Read from the live version's folder when somebody asks. Nothing is measured here. What is missing is null,
and the answer names the command that makes it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from services.query import examples
from services.query.examples import example
from services.query.schema import Notice
from shared.errors import ConfigurationError
from shared.vision.curves import Curves, ReliabilityBin, RocCurve
from shared.vision.live_version import live_folder
from shared.vision.retrieval_report import Averages, Interval, RetrievalReport, ShortcutAudit, VoteBin
from shared.vision.tasks import BUILT_IN, task_names

log = logging.getLogger(__name__)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


# -- what a model card says, as far as it is told here -------------------------------------------
class _Measured(_Value):
    n: int
    patients: int
    accuracy: Interval
    balanced_accuracy: Interval
    ece: float
    confusion: tuple[tuple[int, ...], ...]


class _Evaluation(_Value):
    title: str
    study: _Measured


class _Data(_Value):
    kind: str
    description: str
    split: str = ""


class _Card(_Value):
    title: str
    notice: str
    head_id: str
    backbone_id: str
    labels: tuple[str, ...]
    data: _Data
    evaluations: tuple[_Evaluation, ...] = Field(min_length=1)
    limits: tuple[str, ...] = ()
    rebuild: str


# -- what is answered ----------------------------------------------------------------------------
class ValidatedTask(_Value):
    """An installed task."""

    name: str
    title: str
    head_id: str
    phantom: bool = Field(description="Its figures are of simulated images.")


class ValidatedTasks(_Value):
    """The tasks that there are reports of."""

    model_config = example({"tasks": [examples.VALIDATED_TASK], **examples.NOTICE})

    tasks: tuple[ValidatedTask, ...]
    notice: Notice = "research use only"


class Source(_Value):
    """What the figures were measured on."""

    kind: str = Field(examples=["phantom"])
    title: str = Field(description="The set of cases, which training never saw.", examples=["Test: new patients"])
    description: str
    split: str


class Confusion(_Value):
    """Studies: true classes down, predicted ones across, in the order of `labels`."""

    labels: tuple[str, ...]
    counts: tuple[tuple[NonNegativeInt, ...], ...]


class SetFigures(_Value):
    """One set of cases that training never saw."""

    title: str
    cases: NonNegativeInt
    patients: NonNegativeInt
    accuracy: Interval
    balanced_accuracy: Interval
    ece: float = Field(description="Expected calibration error, ten bins.")


class SpaceMeasures(_Value):
    """How often the nearest cases in a space are of the query's class; see `headline` for how it was measured."""

    space: str = Field(description="visual, or the task's own.")
    p_at: dict[str, Averages] = Field(description="Precision at k.")
    map_at_5: Averages
    mmv_at_5: Averages
    votes: tuple[VoteBin, ...]
    shortcuts: tuple[ShortcutAudit, ...]


class Retrieval(_Value):
    """The figures of the search."""

    phantom: bool
    headline: str
    studies: NonNegativeInt
    sources: tuple[str, ...]
    sources_never_seen: tuple[str, ...]
    gain_p_at_5: Interval
    spaces: tuple[SpaceMeasures, ...]


class Commands(_Value):
    """What makes each part again."""

    confusion: str
    roc: str
    calibration: str
    retrieval: str


class Validation(_Value):
    """How good a task's head is on cases that training never saw. Parts without a file are null."""

    name: str
    title: str
    head_id: str
    backbone_id: str
    phantom: bool
    caution: str = Field(description="The model card's own words.")
    source: Source
    cases: NonNegativeInt
    sets: tuple[SetFigures, ...]
    confusion: Confusion
    roc: tuple[RocCurve, ...] | None
    calibration: tuple[ReliabilityBin, ...] | None
    curves_source: str | None = Field(description="The set of cases of ROC and calibration; null: that of `source`.")
    retrieval: Retrieval | None
    limits: tuple[str, ...]
    commands: Commands
    notice: Notice = "research use only"


def validated_tasks(tasks_dir: Path | None) -> ValidatedTasks:
    """The installed tasks; one whose card cannot be read is left out, with a warning.

    Raises:
        ConfigurationError: `tasks_dir` is not a folder.
    """
    found = []
    for name in task_names(tasks_dir):
        try:
            _, card = _card(tasks_dir, name)
        except ConfigurationError as error:
            log.warning("no validation of %s: %s", name, error)
            continue
        phantom = card.data.kind == "phantom"
        found.append(ValidatedTask(name=name, title=card.title, head_id=card.head_id, phantom=phantom))
    return ValidatedTasks(tasks=tuple(found))


def validation_of(tasks_dir: Path | None, name: str) -> Validation | None:
    """What the files of a task's live version say; None if there is no such task.

    Raises:
        ConfigurationError: its model card cannot be read.
    """
    if name not in task_names(tasks_dir):
        return None
    folder, card = _card(tasks_dir, name)
    first = card.evaluations[0]
    curves = _curves(folder, card)
    return Validation(
        name=name,
        title=card.title,
        head_id=card.head_id,
        backbone_id=card.backbone_id,
        phantom=card.data.kind == "phantom",
        caution=card.notice,
        source=Source(kind=card.data.kind, title=first.title, description=card.data.description, split=card.data.split),
        cases=first.study.n,
        sets=tuple(_set(one) for one in card.evaluations),
        confusion=Confusion(labels=card.labels, counts=first.study.confusion),
        roc=curves.roc if curves else None,
        calibration=curves.calibration if curves else None,
        curves_source=curves.source if curves else None,
        retrieval=_retrieval(folder, card),
        limits=card.limits,
        commands=Commands(
            confusion=card.rebuild,
            roc=f"similis evaluate {name} --out OUT",
            calibration=f"similis evaluate {name} --out OUT",
            retrieval=f"similis evaluate retrieval {name}",
        ),
    )


def _card(tasks_dir: Path | None, name: str) -> tuple[Path, _Card]:
    folder = live_folder((tasks_dir or BUILT_IN) / name)
    try:
        return folder, _Card.model_validate_json((folder / "model-card.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{folder} has no readable model card: {error}") from error


def _set(one: _Evaluation) -> SetFigures:
    figures = one.study
    return SetFigures(
        title=one.title,
        cases=figures.n,
        patients=figures.patients,
        accuracy=figures.accuracy,
        balanced_accuracy=figures.balanced_accuracy,
        ece=figures.ece,
    )


def _curves(folder: Path, card: _Card) -> Curves | None:
    try:
        return Curves.load(folder, head_id=card.head_id)
    except ConfigurationError as error:
        log.warning("no curves: %s", error)
        return None


def _retrieval(folder: Path, card: _Card) -> Retrieval | None:
    try:
        report = RetrievalReport.load(folder, head_id=card.head_id, backbone_id=card.backbone_id)
    except ConfigurationError as error:
        log.warning("no figures of the search: %s", error)
        return None
    if report is None:
        return None
    return Retrieval(
        phantom=report.phantom,
        headline=report.headline,
        studies=report.studies,
        sources=report.sources,
        sources_never_seen=report.sources_never_seen,
        gain_p_at_5=report.gain_p_at_5,
        spaces=tuple(
            SpaceMeasures(
                space=space,
                p_at=figures.p_at,
                map_at_5=figures.map_at_5,
                mmv_at_5=figures.mmv_at_5,
                votes=figures.votes,
                shortcuts=figures.shortcuts,
            )
            for space, figures in report.spaces.items()
        ),
    )
