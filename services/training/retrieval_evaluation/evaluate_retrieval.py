"""Measure how well the nearest cases answer, in the backbone's space and in the task's own.

encode ─▶ studies as the index holds them ─▶ rank by each protocol ─▶ figures and intervals ─▶ votes, shortcuts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from services.training.dataset.cases import Case, DatasetError
from services.training.features.case_features import CaseEncoder, Encoder, Progress, frame_choice
from services.training.measures.bootstrap import BOOTSTRAPS, Estimate, bootstrap, exact_share
from services.training.measures.scores import Floats
from services.training.measures.scores import Ints as Rows
from services.training.retrieval_evaluation.figures import DEPTHS, MAP, MMV, NAMES, query_figures, random_figures
from services.training.retrieval_evaluation.ranking import Ranked, rank
from services.training.retrieval_evaluation.studies import Ints, Studies, studies_of
from services.training.retrieval_evaluation.votes import shortcut_audits, vote_bins
from shared.errors import WeightsError
from shared.pixels import PixelLimits
from shared.vision.retrieval_report import (
    VISUAL,
    Averages,
    Chance,
    Disjoint,
    Gallery,
    Interval,
    Level,
    Measures,
    ProtocolFigures,
    RetrievalReport,
    SpaceFigures,
)
from shared.vision.tasks import Task

NOTICE: Final = "Research use only. No diagnostic device; on phantoms, these are phantom results."


@dataclass(frozen=True, slots=True)
class RetrievalSets:
    """Cases by what training saw of them. No patient is in two of them.

    Attributes:
        training: What the head was fitted on.
        fresh: Never seen, of sources that training had.
        unseen: Never seen, of sources that it had not; may be empty.
    """

    training: Sequence[Case]
    fresh: Sequence[Case]
    unseen: Sequence[Case] = ()

    def check(self) -> None:
        """Refuse sets that would flatter.

        Raises:
            DatasetError: a patient is in the training and among the queries, or a source is called unseen but is not.
        """
        trained = {case.patient for case in self.training}
        tested = [case.patient for case in (*self.fresh, *self.unseen)]
        if known := trained & set(tested):
            raise DatasetError(f"{len(known)} patients are in the training set and among the queries")
        seen = {case.source for case in (*self.training, *self.fresh)}
        if leaked := seen & {case.source for case in self.unseen}:
            raise DatasetError(f"training has seen {', '.join(sorted(leaked))}")


@dataclass(frozen=True, slots=True)
class RetrievalOptions:
    """How to measure.

    Attributes:
        seed: Of bootstrap and random orders.
        draws: Bootstrap samples.
        precision: Of the backbone, for the report.
        contrast: Of phantoms, for the report; None: the images are no phantoms.
        command: Makes the report again, without paths.
    """

    seed: int = 0
    draws: int = BOOTSTRAPS
    precision: str = "not stated"
    contrast: float | None = None
    command: str = "not stated"


@dataclass(frozen=True, slots=True, eq=False)
class _Protocol:
    gallery_name: Gallery
    disjoint: Disjoint
    queries: Studies
    gallery: Studies


def evaluate_retrieval(
    task: Task,
    sets: RetrievalSets,
    backbone: Encoder,
    options: RetrievalOptions,
    *,
    cache_dir: Path | None = None,
    limits: PixelLimits | None = None,
    progress: Progress | None = None,
) -> RetrievalReport:
    """All figures. Blocks for minutes; nothing is written but the cache.

    Args:
        task: The head; it must have a projection.
        sets: Queries and galleries.
        backbone: Frozen, the head's.
        options: How to measure.
        cache_dir: Where features are kept; None: nowhere.
        limits: Of what is decoded.
        progress: Called after each case.

    Raises:
        DatasetError: cases cannot be read, are too few, or would flatter.
        WeightsError: the head does not read this backbone's features.
    """
    if task.head.backbone_id != backbone.id:
        raise WeightsError(f"the head of {task.name} reads {task.head.backbone_id}, the backbone is {backbone.id}")
    sets.check()
    encoder = CaseEncoder(backbone, cache_dir, limits, lens=task.head.lens)

    def encode(cases: Sequence[Case], title: str) -> Studies:
        choose = frame_choice(task.definition)
        return studies_of(encoder.encode(cases, choose=choose, title=title, progress=progress), task)

    training = encode(sets.training, "training studies")
    tested = encode([*sets.fresh, *sets.unseen], "test studies")
    return report_of(task, training, tested, np.arange(len(tested)) >= len(sets.fresh), options)


def report_of(
    task: Task, training: Studies, tested: Studies, is_unseen: np.ndarray, options: RetrievalOptions
) -> RetrievalReport:
    """The report of encoded studies; `is_unseen` (N,) says which of `tested` are of sources that training never saw."""
    known, unseen = tested.only(~is_unseen), tested.only(is_unseen)
    protocols = [
        _Protocol("training", "patient", known, training),
        _Protocol("others", "patient", tested, tested),
    ]
    if len(unseen):
        protocols += [
            _Protocol("training", "source", unseen, training),
            _Protocol("others", "source", unseen, known),
        ]
    headline = next(
        one
        for one in reversed(protocols)
        if one.gallery_name == "training" and one.disjoint == ("source" if len(unseen) else "patient")
    )
    spaces: dict[str, list[ProtocolFigures]] = {VISUAL: [], task.name: []}
    tops: dict[str, Measures] = {}
    gain: Interval | None = None
    for protocol in protocols:
        for level in ("study", "frame"):
            found, gained = _measured(protocol, level, task, options)
            for space, figures in found.items():
                spaces[space].append(figures)
                if protocol is headline and level == "study":
                    tops[space], gain = figures.measures, gained
    if gain is None:
        raise DatasetError("there is no query")
    return RetrievalReport(
        notice=NOTICE,
        task=task.name,
        title=task.definition.title,
        phantom=options.contrast is not None,
        head_id=task.head.id,
        backbone_id=task.head.backbone_id,
        precision=options.precision,
        labels=task.head.labels,
        headline=_words(headline),
        spaces={
            space: _space_figures(space, tops[space], figures, tested, options) for space, figures in spaces.items()
        },
        gain_p_at_5=gain,
        studies=len(tested),
        training_studies=len(training),
        sources=_sources(known),
        sources_never_seen=_sources(unseen),
        contrast=options.contrast,
        seed=options.seed,
        bootstraps=options.draws,
        command=options.command,
    )


def _measured(
    protocol: _Protocol, level: Level, task: Task, options: RetrievalOptions
) -> tuple[dict[str, ProtocolFigures], Interval]:
    """Both spaces on the same queries, and the task space's gain in macro P@5."""
    ranked = {
        space: rank(protocol.queries, protocol.gallery, space, disjoint=protocol.disjoint, level=level)
        for space in (VISUAL, task.name)
    }
    values = {space: query_figures(one) for space, one in ranked.items()}
    classes, patients = ranked[VISUAL].classes, protocol.queries.patients

    def figures(rows: Rows) -> Mapping[str, float]:
        found = {}
        for space, by_name in values.items():
            for name in NAMES:
                drawn = by_name[name][rows]
                found[f"{space} {name} micro"] = float(drawn.mean())
                found[f"{space} {name} macro"] = _macro(drawn, classes[rows])
        found["gain"] = found[f"{task.name} P@5 macro"] - found[f"{VISUAL} P@5 macro"]
        return found

    estimates = bootstrap(figures, patients, draws=options.draws, seed=options.seed)
    count = len(np.unique(patients))

    def averages(space: str, name: str) -> Averages:
        each = values[space][name]
        if (each == 1).all() or not each.any():
            # Resampling equal values shows no spread: as if as many patients were all hits, or all misses.
            exact = _interval(exact_share(count if each.any() else 0, count))
            return Averages(micro=exact, macro=exact)
        return Averages(
            micro=_interval(estimates[f"{space} {name} micro"]), macro=_interval(estimates[f"{space} {name} macro"])
        )

    def one(space: str) -> ProtocolFigures:
        return ProtocolFigures(
            gallery=protocol.gallery_name,
            disjoint=protocol.disjoint,
            level=level,
            queries=len(protocol.queries),
            patients=count,
            gallery_studies=len(protocol.gallery),
            measures=Measures(
                p_at={str(k): averages(space, f"P@{k}") for k in DEPTHS},
                map_at_5=averages(space, MAP),
                mmv_at_5=averages(space, MMV),
            ),
            chance=_chance(ranked[space], options.seed),
            p_at_5_of={
                label: round(float(values[space]["P@5"][classes == at].mean()), 4)
                for at, label in enumerate(task.head.labels)
                if (classes == at).any()
            },
        )

    return {space: one(space) for space in ranked}, _interval(estimates["gain"])


def _space_figures(
    space: str, top: Measures, protocols: Sequence[ProtocolFigures], tested: Studies, options: RetrievalOptions
) -> SpaceFigures:
    ranked = rank(tested, tested, space, disjoint="patient", level="study")
    bins, ties = vote_bins(ranked, tested.labels)
    return SpaceFigures(
        p_at=top.p_at,
        map_at_5=top.map_at_5,
        mmv_at_5=top.mmv_at_5,
        votes=bins,
        ties=ties,
        shortcuts=shortcut_audits(ranked, tested, tested, draws=options.draws, seed=options.seed),
        protocols=tuple(protocols),
    )


def _chance(ranked: Ranked, seed: int) -> Chance:
    drawn = random_figures(ranked, seed)
    return Chance(p_at=round(ranked.chance, 4), map_at_5=round(drawn[MAP], 4), mmv_at_5=round(drawn[MMV], 4))


def _macro(values: Floats, classes: Ints) -> float:
    return float(np.mean([values[classes == label].mean() for label in np.unique(classes)]))


def _interval(estimate: Estimate | None) -> Interval:
    if estimate is None:
        raise DatasetError("there is no query")
    return Interval(**estimate.model_dump())


def _sources(studies: Studies) -> tuple[str, ...]:
    return tuple(sorted({str(source) for source in studies.sources} - {""}))


def _words(protocol: _Protocol) -> str:
    gallery = "the studies that trained the head" if protocol.gallery_name == "training" else "other test studies"
    kept_apart = "new patients on sources never seen" if protocol.disjoint == "source" else "new patients"
    return f"studies of {kept_apart}, searched for among {gallery}"
