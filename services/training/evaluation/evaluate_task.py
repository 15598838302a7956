"""Measure a task's live head on cases that training never saw.

encode ─▶ judge ─▶ figures and intervals ─▶ strange images ─▶ other features ─▶ report and pictures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from services.training.card.curves import card_curves
from services.training.dataset.cases import Case
from services.training.evaluation.comparison import compare, compare_trivial
from services.training.evaluation.judged import Judged, judge_cases
from services.training.evaluation.ood_measure import measure_strange
from services.training.evaluation.page import evaluation_page
from services.training.evaluation.report import ComparedFigures, EvaluationReport, RiskPoint, SetFigures, StrangeFigures
from services.training.evaluation.strange_images import strange_sets
from services.training.evaluation.subgroups import subgroup_figures
from services.training.features.case_features import CaseEncoder, CaseFeatures, Encoder, Progress, frame_choice
from services.training.measures.bootstrap import BOOTSTRAPS, Estimate, exact_share
from services.training.measures.scores import risk_coverage
from shared.errors import WeightsError
from shared.pixels import Frame, PixelLimits, read_frames, read_image
from shared.vision.curves import CURVES_FILE, Curves
from shared.vision.tasks import Task

NOTICE: Final = "Research use only. No diagnostic device; on phantoms, these are phantom results."
COVERAGES: Final = (0.2, 0.4, 0.6, 0.8, 1.0)
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How to measure.

    Attributes:
        seed: Of bootstrap, strange images and folds.
        draws: Bootstrap samples.
        strange: Images of each strange kind; 0: none.
        command: Makes the report again, without paths.
    """

    seed: int = 0
    draws: int = BOOTSTRAPS
    strange: int = 40
    command: str = "not stated"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What to set beside the backbone.

    Attributes:
        training: Cases to fit each probe on, of other patients than the measured ones.
        test: Cases to measure them on.
        encoders: By name; made when they are needed, one after the other.
    """

    training: Sequence[Case]
    test: Sequence[Case]
    encoders: Mapping[str, Callable[[], Encoder]]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A report, its page of pictures, PNG bytes, and the curves of the first set."""

    report: EvaluationReport
    page: bytes
    curves: Curves

    def write(self, folder: Path, markdown: str) -> None:
        """`report.json`, `report.md`, `figures.png` and `curves.json` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(self.report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(markdown, encoding="utf-8")
        (folder / "figures.png").write_bytes(self.page)
        (folder / CURVES_FILE).write_text(self.curves.model_dump_json(indent=1) + "\n", encoding="utf-8")


def evaluate_task(
    task: Task,
    sets: Mapping[str, Sequence[Case]],
    backbone: Encoder,
    options: EvaluateOptions,
    *,
    comparison: Comparison | None = None,
    cache_dir: Path | None = None,
    limits: PixelLimits | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """All figures of the task's head. Blocks for minutes; nothing is written but the cache.

    Args:
        task: The live head.
        sets: Cases by title; the first is the one that subgroups, pictures and strange images refer to.
        backbone: Frozen.
        options: How to measure.
        comparison: Other encoders to fit the same probe on.
        cache_dir: Where features are kept; None: nowhere.
        limits: Of what is decoded.
        progress: Called as work goes on.

    Raises:
        DatasetError: cases cannot be read, or cannot be compared.
        WeightsError: the head does not read this backbone's features.
    """
    head, definition = task.head, task.definition
    if head.backbone_id != backbone.id:
        raise WeightsError(f"the head of {task.name} reads {head.backbone_id}, the backbone is {backbone.id}")

    def reader(encoder: Encoder) -> CaseEncoder:
        return CaseEncoder(encoder, cache_dir, limits)

    encoder = CaseEncoder(backbone, cache_dir, limits, lens=head.lens)

    def encode(encoder: CaseEncoder, cases: Sequence[Case], title: str) -> list[CaseFeatures]:
        return encoder.encode(cases, choose=frame_choice(definition), title=title, progress=progress)

    judged = {
        title: judge_cases(head, encode(encoder, cases, title), task.finding) for title, cases in sets.items() if cases
    }
    first_title, first = next(iter(judged.items()))
    limit = definition.ood_distance_above
    strange: tuple[StrangeFigures, ...] = ()
    if options.strange and limit is not None and first.distances is not None:
        own = _frames_of(sets[first_title], options.strange, limits or PixelLimits())
        kinds = strange_sets(task.name, own, count=options.strange, seed=options.seed)
        strange = measure_strange(head, backbone, first.distances, limit, kinds)
    compared = () if comparison is None else _compared(task, comparison, encode, encoder, options, reader)
    report = EvaluationReport(
        task=task.name,
        title=definition.title,
        notice=NOTICE,
        head_id=head.id,
        backbone_id=backbone.id,
        labels=head.labels,
        abstain_below=definition.abstain_below,
        ood_limit=limit,
        ood_kind=None if head.familiarity is None else head.familiarity.kind,
        sets=tuple(_set_figures(title, one, definition.abstain_below, limit, options) for title, one in judged.items()),
        subgroups=subgroup_figures(first, draws=options.draws, seed=options.seed),
        strange=strange,
        compared=compared,
        compared_on=None if comparison is None else (len(comparison.training), len(comparison.test)),
        seed=options.seed,
        bootstraps=options.draws,
        command=options.command,
    )
    page = evaluation_page(
        judged,
        title=task.name,
        abstain_below=definition.abstain_below,
        ood_limit=limit,
        strange={figures.kind: figures.distance for figures in strange},
    )
    sources = sorted({case.source for case in sets[first_title] if case.source})
    shown = f"{first_title} ({', '.join(sources)})" if sources else first_title
    curves = card_curves(head.id, first.probabilities, first.classes, head.labels, source=shown)
    return Evaluated(report, page, curves)


def _compared(
    task: Task,
    comparison: Comparison,
    encode: Callable[[CaseEncoder, Sequence[Case], str], list[CaseFeatures]],
    own: CaseEncoder,
    options: EvaluateOptions,
    reader: Callable[[Encoder], CaseEncoder],
) -> tuple[ComparedFigures, ...]:
    """The same probe on the backbone's features, on trivial ones, and on those of each other encoder."""
    labels, finding, lens = task.head.labels, task.finding, task.head.lens

    def probe(name: str, training: Sequence[CaseFeatures], test: Sequence[CaseFeatures]) -> ComparedFigures:
        return compare(name, training, test, labels, finding, draws=options.draws, seed=options.seed)

    def both(encoder: CaseEncoder, name: str) -> tuple[list[CaseFeatures], list[CaseFeatures]]:
        return (
            encode(encoder, comparison.training, f"{name}: training"),
            encode(encoder, comparison.test, f"{name}: test"),
        )

    training, test = both(own, "the backbone")
    found = []
    if lens is not None:
        found.append(probe("the backbone, with the head's patch lens", training, test))
        training, test = ([_without_lens(case, lens.columns) for case in cases] for cases in (training, test))
    found.append(probe("the backbone", training, test))
    for name, make in comparison.encoders.items():
        found.append(probe(name, *both(reader(make()), name)))
    found += compare_trivial(training, test, labels, finding, draws=options.draws, seed=options.seed)
    return tuple(found)


def _without_lens(case: CaseFeatures, columns: int) -> CaseFeatures:
    return replace(case, joined=case.joined[:, :-columns])


def _set_figures(
    title: str, judged: Judged, abstain_below: float, limit: float | None, options: EvaluateOptions
) -> SetFigures:
    curve = risk_coverage(judged.probabilities.max(axis=1), judged.probabilities.argmax(axis=1) == judged.classes)
    flagged: Estimate | None = None
    if limit is not None and judged.distances is not None:
        flagged = exact_share(int((judged.distances > limit).sum()), len(judged.distances))
    return SetFigures(
        title=title,
        metrics=judged.measure(abstain_below, draws=options.draws, seed=options.seed),
        risk=tuple(RiskPoint(coverage=share, risk=round(curve.at(share), 4)) for share in COVERAGES),
        flagged=flagged,
    )


def _frames_of(cases: Sequence[Case], count: int, limits: PixelLimits) -> list[Frame]:
    """The middle frame of up to `count` cases."""
    chosen = [cases[int(index)] for index in np.unique(np.linspace(0, len(cases) - 1, count).round())]
    found = []
    for case in chosen:
        data = (objects := case.load().objects)[len(objects) // 2]
        is_picture = data.startswith(_PICTURES)
        found.append(read_image(data, limits=limits) if is_picture else read_frames(data, limits=limits)[0])
    return found
