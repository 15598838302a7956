"""What a head says of cases whose truth is known: the one thing that all figures of an evaluation are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.training.features.case_features import CaseFeatures
from services.training.measures.metrics import Metrics, measure
from services.training.measures.scores import Bools, Floats, Ints
from shared.vision.aggregate import aggregate
from shared.vision.familiarity import study_distance
from shared.vision.heads import LinearHead


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """N cases and what a head said of them.

    Attributes:
        probabilities: (N, C) calibrated study probabilities.
        classes: (N,) true classes.
        patients: (N,) the unit of every interval.
        distances: (N,) study distances from the training images; None if the head cannot tell.
        traits: Of each case: sex, age band, scanner, source, as far as known.
    """

    labels: tuple[str, ...]
    finding: Bools
    probabilities: Floats
    classes: Ints
    patients: NDArray[np.str_]
    distances: Floats | None
    traits: tuple[Mapping[str, str], ...]

    def measure(self, abstain_below: float, *, draws: int, seed: int) -> Metrics:
        """All figures with their intervals."""
        return measure(
            self.probabilities,
            self.classes,
            self.labels,
            subjects=self.patients,
            abstain_below=abstain_below,
            finding=self.finding,
            draws=draws,
            seed=seed,
        )

    def only(self, rows: Bools) -> Judged:
        """Some of the cases."""
        return Judged(
            self.labels,
            self.finding,
            self.probabilities[rows],
            self.classes[rows],
            self.patients[rows],
            None if self.distances is None else self.distances[rows],
            tuple(trait for trait, kept in zip(self.traits, rows, strict=True) if kept),
        )


def judge_cases(head: LinearHead, cases: Sequence[CaseFeatures], finding: Bools) -> Judged:
    """What `head` says of `cases`, by the very rule of the embedder.

    Args:
        head: The head.
        cases: At least one, encoded with the head's lens.
        finding: (C,) which of its classes are findings.
    """
    scores = [aggregate(head.logits(case.joined), finding, head.temperature) for case in cases]
    distances = [head.distances(case.joined) for case in cases]
    return Judged(
        labels=head.labels,
        finding=finding,
        probabilities=np.stack([score.probabilities for score in scores]),
        classes=np.array([head.labels.index(case.label) for case in cases], np.int64),
        patients=np.array([case.case.patient for case in cases]),
        distances=None
        if head.familiarity is None
        else np.array([study_distance(each) for each in distances if each is not None]),
        traits=tuple({**case.subgroup, **({"source": case.case.source} if case.case.source else {})} for case in cases),
    )
