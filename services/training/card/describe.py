"""Measures what was fitted and writes it down: from a fitted head to its model card."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.training.card.model_card import (
    CalibrationFacts,
    Choices,
    DataFacts,
    Evaluation,
    ModelCard,
    OperatingPoint,
    SplitFacts,
    Subgroup,
)
from services.training.card.search_facts import search_facts
from services.training.card.text import intended_use, limits_of, notice_of
from services.training.dataset.cases import SplitName
from services.training.dataset.leakage import Leak
from services.training.dataset.training_objects import objects_of, sha256_of
from services.training.features.case_features import CaseFeatures
from services.training.fit.calibration import Calibration, Operating
from services.training.fit.linear_probe import Probe, case_classes, case_logits, stack_frames
from services.training.fit.neighbours import Neighbours, neighbour_probabilities
from services.training.fit.task_space import ProjectionChoice
from services.training.fit.trivial import trivial_baselines
from services.training.fit.unfamiliar import study_distance
from services.training.measures.bootstrap import Estimate, bootstrap
from services.training.measures.enough import has_enough_patients
from services.training.measures.metrics import Metrics, measure
from services.training.train_options import TrainOptions
from shared.vision.aggregate import softmax
from shared.vision.heads import LinearHead
from shared.vision.tasks import TaskDefinition

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """All that a card tells of.

    Attributes:
        scores: (N, C) uncalibrated study logits that the calibration was fitted on.
        classes: (N,) their true classes.
        held_out: More cases to measure on, by title.
    """

    definition: TaskDefinition
    definition_sha256: str
    head: LinearHead
    kind: Literal["folder", "archive", "phantom"]
    description: str
    patients_known: bool
    split: str
    parts: Mapping[SplitName, Sequence[CaseFeatures]]
    leaks: Sequence[Leak]
    moved: int
    held_out: Mapping[str, Sequence[CaseFeatures]]
    probe: Probe
    neighbours: Neighbours
    space: ProjectionChoice
    calibration: Calibration
    scores: Floats
    classes: Ints
    point: Operating
    options: TrainOptions

    @property
    def finding(self) -> Bools:
        """(C,) which classes are findings."""
        return np.array([entry.is_finding for entry in self.definition.classes], np.bool_)


def card_of(described: Described) -> ModelCard:
    """The card. Measures on the test split and on what is held out: they were not used before."""
    definition, head, options = described.definition, described.head, described.options
    labels, finding, test = head.labels, described.finding, described.parts["test"]
    abstain_below, too_far = definition.abstain_below, definition.ood_distance_above
    sets = {"Test: new patients": test, **described.held_out}
    evaluations = tuple(
        evaluate_cases(head, cases, title, finding, abstain_below, too_far) for title, cases in sets.items()
    )
    return ModelCard(
        name=definition.name,
        title=definition.title,
        notice=notice_of(described.kind),
        head_id=head.id,
        head_sha256=hashlib.sha256(head.to_bytes()).hexdigest(),
        definition_sha256=described.definition_sha256,
        backbone_id=head.backbone_id,
        labels=labels,
        data=_data_facts(described),
        choices=Choices(
            seed=options.seed,
            folds=described.probe.folds,
            grouped_by=options.grouped_by,
            regularisation=described.probe.strength,
            reads=_reads(described.probe),
            neighbours=described.neighbours.k,
            projection_shrinkage=described.space.shrinkage,
            projection_gain=described.space.gain,
        ),
        calibration=_calibration_facts(described),
        operating_point=_operating_facts(described),
        evaluations=evaluations,
        neighbours=measure(
            neighbour_probabilities(described.neighbours, test, labels, finding),
            case_classes(test, labels),
            labels,
            subjects=_patients(test),
            abstain_below=0.0,
            finding=finding,
        ),
        search=search_facts(head, test, finding),
        subgroups=_subgroups(head, test, finding),
        shortcut_baselines=trivial_baselines(described.parts["training"], test, labels, finding, options.seed)
        if options.shortcuts
        else {},
        intended_use=intended_use(described.kind, definition.name),
        limits=limits_of(
            described.kind,
            patients_known=described.patients_known,
            moved=described.moved,
            test_cases=len(test),
            frames_labelled=all(case.frame_labels for case in described.parts["training"]),
            is_reached=described.point.is_reached,
            is_calibrated=described.calibration.has_converged and not described.calibration.at_bound,
        ),
        licence=options.licence,
        rebuild=options.rebuild,
        software={
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "scikit-learn", "numpy")},
        },
    )


def evaluate_cases(
    head: LinearHead,
    cases: Sequence[CaseFeatures],
    title: str,
    finding: Bools,
    abstain_below: float,
    ood_distance_above: float | None,
) -> Evaluation:
    """Study- and, where the frames' own classes are known, frame-level figures of `head` on `cases`."""
    rows = stack_frames(cases, head.labels)
    patients = _patients(cases)
    frame: Metrics | None = None
    if rows.is_known.all() and len(rows.classes) > len(cases):
        frame = measure(
            head.probabilities(head.logits(rows.joined)),
            rows.classes,
            head.labels,
            subjects=patients[rows.case],
            abstain_below=abstain_below,
            finding=finding,
        )
    far = [study_distance(head, case) > (ood_distance_above or np.inf) for case in cases]
    return Evaluation(
        title=title,
        study=measure(
            head.probabilities(case_logits(head, cases, finding)),
            case_classes(cases, head.labels),
            head.labels,
            subjects=patients,
            abstain_below=abstain_below,
            finding=finding,
        ),
        frame=frame,
        flagged_unfamiliar=None if ood_distance_above is None else round(float(np.mean(far)), 4),
    )


def _data_facts(described: Described) -> DataFacts:
    lines = sorted(
        f"{name} {case.label} {digest}\n"
        for name, cases in described.parts.items()
        for case in cases
        for digest in set(case.object_hashes)
    )
    return DataFacts(
        kind=described.kind,
        description=described.description,
        sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        patients_known=described.patients_known,
        split=described.split,
        splits={
            name: SplitFacts(
                cases=len(cases),
                patients=len(set(_patients(cases))),
                frames=sum(len(case.joined) for case in cases),
                labels=dict(Counter(case.label for case in cases)),
            )
            for name, cases in described.parts.items()
        },
        leaks_found=dict(Counter(leak.kind for leak in described.leaks)),
        cases_moved=described.moved,
        **_origin_facts(described),
    )


def _origin_facts(described: Described) -> dict[str, Any]:
    """A phantom's sources are the recipe's own words; of other images the hashes tell enough."""
    if described.kind != "phantom":
        return {"training_objects_sha256": sha256_of(objects_of(described.parts))}
    drawn, apart = (
        sorted({case.case.source for cases in parts.values() for case in cases} - {""})
        for parts in (described.parts, described.held_out)
    )
    return {"sources": tuple(drawn), "held_out": tuple(apart)}


def _calibration_facts(described: Described) -> CalibrationFacts:
    fitted, rows = described.calibration, np.arange(len(described.classes))
    before = -np.log(softmax(described.scores)[rows, described.classes] + 1e-12).mean()
    frequencies = np.bincount(described.classes) / len(described.classes)
    trained = "left-out training and calibration cases" if described.options.cross_fitted else "calibration cases"
    return CalibrationFacts(
        cases=len(described.classes),
        fitted_on=trained,
        offset=round(fitted.offset, 6),
        temperature=round(fitted.temperature, 6),
        nll_before=round(float(before), 4),
        nll_after=round(fitted.loss, 4),
        at_bound=fitted.at_bound,
        nll_prior=round(float(-np.log(frequencies[described.classes]).mean()), 4),
    )


def _operating_facts(described: Described) -> OperatingPoint:
    definition, finding = described.definition, described.finding
    shifted = described.scores + np.where(finding, 0.0, described.calibration.offset)
    probabilities = described.head.probabilities(shifted)
    answered = probabilities.max(axis=1) >= definition.abstain_below
    right = probabilities.argmax(axis=1) == described.classes
    return OperatingPoint(
        aim=described.options.aim,
        target=described.options.target,
        is_reached=described.point.is_reached,
        abstain_below=definition.abstain_below,
        coverage=round(float(answered.mean()), 4),
        accuracy_answered=round(float(right[answered].mean()), 4) if answered.any() else None,
        ood_distance_above=definition.ood_distance_above,
    )


def _subgroups(head: LinearHead, test: Sequence[CaseFeatures], finding: Bools) -> tuple[Subgroup, ...]:
    right = case_logits(head, test, finding).argmax(axis=1) == case_classes(test, head.labels)
    patients = _patients(test)
    found = []
    for trait in sorted({trait for case in test for trait in case.subgroup}):
        values = np.array([case.subgroup.get(trait, "") for case in test])
        for value in sorted(set(values) - {""}):
            at = np.flatnonzero(values == value)
            if has_enough_patients(patients[at]) and (accuracy := _share(right[at], patients[at])):
                found.append(Subgroup(trait=trait, value=str(value), cases=len(at), accuracy=accuracy))
    return tuple(found)


def _reads(probe: Probe) -> str:
    if probe.head.lens is None:
        return "the joined features of a frame"
    others = probe.head.weight[:, : -probe.head.lens.columns]
    return "a patch lens" if not others.any() else "the joined features of a frame and a patch lens"


def _share(right: Bools, patients: NDArray[np.str_]) -> Estimate | None:
    return bootstrap(lambda rows: {"right": float(right[rows].mean())}, patients)["right"]


def _patients(cases: Sequence[CaseFeatures]) -> NDArray[np.str_]:
    return np.array([case.case.patient for case in cases])
