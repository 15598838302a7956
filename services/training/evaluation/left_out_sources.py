"""How good a recipe's heads are on sources that they have never seen: each source is left out once.

for each source: fit (the others' training) ─▶ calibrate (the others) ─▶ judge all cases of the one left out

No head that is kept is measured here, but the recipe that makes it: as many heads as there are sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.training.dataset.cases import SPLITS, DatasetError, SplitName
from services.training.dataset.leakage import find_leaks, refuse_leaks
from services.training.dataset.splits import split_cases
from services.training.evaluation.calibrated_otherwise import CalibratedOn, calibrated_otherwise, compare_calibrations
from services.training.evaluation.evaluate_task import NOTICE
from services.training.evaluation.judged import Judged, judge_cases
from services.training.evaluation.markdown import table
from services.training.evaluation.report import ReportModel
from services.training.features.case_features import CaseFeatures
from services.training.fit.head import CalibratedHead, fit_head
from services.training.measures.bootstrap import BOOTSTRAPS
from services.training.measures.metrics import Metrics, measure
from services.training.measures.scores import Floats
from services.training.train_options import TrainOptions
from shared.vision.tasks import TaskDefinition


class LeftOutFigures(ReportModel):
    """One fold.

    Attributes:
        sources: Left out together; all of their cases are measured.
        trained_on: The others.
        training: Cases that the head was fitted on.
        calibration: Cases of the same sources, calibrated on beside the cross-validated scores of training.
    """

    sources: tuple[str, ...]
    trained_on: tuple[str, ...]
    training: int
    calibration: int
    regularisation: float
    temperature: float
    offset: float
    metrics: Metrics


class LeftOutReport(ReportModel):
    """All folds, and their cases in one.

    Attributes:
        description: Of the cases.
        calibrations: What other cases to calibrate on would have given.
        command: Makes the report again.
    """

    task: str
    title: str
    notice: str
    description: str
    backbone_id: str
    labels: tuple[str, ...]
    folds: tuple[LeftOutFigures, ...]
    pooled: Metrics
    calibrations: tuple[CalibratedOn, ...]
    seed: int
    bootstraps: int
    command: str


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    sources: tuple[str, ...]
    trained_on: tuple[str, ...]
    fitted: CalibratedHead
    judged: Judged
    otherwise: Mapping[str, Floats]


def leave_one_source_out(
    cases: Sequence[CaseFeatures],
    definition: TaskDefinition,
    backbone_id: str,
    options: TrainOptions,
    *,
    together: Sequence[Sequence[str]] = (),
    description: str = "",
    draws: int = BOOTSTRAPS,
    command: str = "not stated",
    progress: Callable[[str, int, int], None] | None = None,
) -> LeftOutReport:
    """Train without each source in turn, by the very recipe of `train_task`, and measure on what was left out.

    Args:
        cases: Encoded once for all folds, with patches and coverage where masks are known; each has a source.
        definition: The task.
        backbone_id: Of the backbone that made the features.
        options: How to train.
        together: Sources that are left out together, since they are of one person, say.
        description: Of the cases, for the report.
        draws: Bootstrap samples.
        command: For the report.
        progress: Called after each fold.

    Raises:
        DatasetError: there are fewer than two groups of sources, or a case has none, or cases leak between the sides.
    """
    folds = []
    groups = _groups(cases, together)
    for done, sources in enumerate(groups, start=1):
        folds.append(_fold(cases, sources, definition, backbone_id, options))
        if progress:
            progress("sources left out", done, len(groups))
    labels = tuple(entry.label for entry in definition.classes)
    judged = [fold.judged for fold in folds]
    classes = np.concatenate([one.classes for one in judged])
    pooled = measure(
        np.concatenate([one.probabilities for one in judged]),
        classes,
        labels,
        subjects=np.concatenate([one.patients for one in judged]),
        abstain_below=0.0,
        finding=judged[0].finding,
        draws=draws,
        seed=options.seed,
    )
    return LeftOutReport(
        task=definition.name,
        title=definition.title,
        notice=NOTICE,
        description=description,
        backbone_id=backbone_id,
        labels=labels,
        folds=tuple(_figures(fold, draws, options.seed) for fold in folds),
        pooled=pooled,
        calibrations=compare_calibrations([fold.otherwise for fold in folds], classes, options.seed),
        seed=options.seed,
        bootstraps=draws,
        command=command,
    )


def left_out_table(report: LeftOutReport) -> list[str]:
    """The lines of a Markdown table, one row a fold, the last one of all cases together."""
    rows = [(", ".join(fold.sources), ", ".join(fold.trained_on), fold.metrics) for fold in report.folds]
    header = ("left out", "trained on", "studies", "accuracy", "ECE (if calibrated)")
    return table(
        (*header, *(f"recall, {label}" for label in report.labels)),
        (
            (
                name,
                others,
                metrics.n,
                metrics.accuracy,
                f"{metrics.ece:.3f} ({metrics.ece_if_calibrated or 0:.3f})",
                *("-" if recall is None else f"{recall:.2f}" for recall in metrics.recall.values()),
            )
            for name, others, metrics in (*rows, ("**all, each by a head that has not seen it**", "", report.pooled))
        ),
    )


def _groups(cases: Sequence[CaseFeatures], together: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The sources, in the order of their first case; those that belong together in one group."""
    sources = list(dict.fromkeys(case.case.source for case in cases))
    if "" in sources:
        raise DatasetError("a case has no source: nothing can be left out with it")
    joined: Mapping[str, tuple[str, ...]] = {name: tuple(group) for group in together for name in group}
    if unknown := set(joined) - set(sources):
        raise DatasetError(f"there is no source {', '.join(sorted(unknown))}: {', '.join(sources)}")
    groups = list(dict.fromkeys(joined.get(source, (source,)) for source in sources))
    if len(groups) < 2:
        raise DatasetError("leaving out the only source leaves nothing to train on")
    return groups


def _fold(
    cases: Sequence[CaseFeatures],
    sources: tuple[str, ...],
    definition: TaskDefinition,
    backbone_id: str,
    options: TrainOptions,
) -> _Fold:
    labels = tuple(entry.label for entry in definition.classes)
    finding = np.array([entry.is_finding for entry in definition.classes], np.bool_)
    encoded = {one.case.study: one for one in cases}
    given: list[SplitName] = ["test" if one.case.source in sources else "training" for one in cases]
    drawn, _ = split_cases(
        [replace(one.case, split=split) for one, split in zip(cases, given, strict=True)], options.seed
    )
    parts = {name: [replace(encoded[case.study], case=case) for case in drawn[name]] for name in SPLITS}
    refuse_leaks(find_leaks(parts))
    fitted = fit_head(
        parts,
        task=definition.name,
        labels=labels,
        finding=finding,
        backbone_id=backbone_id,
        grouping=options.grouped_by,
        seed=options.seed,
        fitted_frames=options.fitted_frames,
        cross_fitted=options.cross_fitted,
    )
    others = tuple(dict.fromkeys(one.case.source for one in cases if one.case.source not in sources))
    judged = judge_cases(fitted.head, fitted.parts["test"], finding)
    return _Fold(sources, others, fitted, judged, calibrated_otherwise(fitted, labels, finding))


def _figures(fold: _Fold, draws: int, seed: int) -> LeftOutFigures:
    training, calibration = fold.fitted.parts["training"], fold.fitted.parts["calibration"]
    return LeftOutFigures(
        sources=fold.sources,
        trained_on=fold.trained_on,
        training=len(training),
        calibration=len(calibration),
        regularisation=fold.fitted.probe.strength,
        temperature=round(fold.fitted.calibration.temperature, 4),
        offset=round(fold.fitted.calibration.offset, 4),
        metrics=fold.judged.measure(0.0, draws=draws, seed=seed),
    )
