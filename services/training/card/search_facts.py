"""How well the nearest cases of a task are of the query's class, for the card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.training.card.model_card import SearchFacts
from services.training.features.case_features import CaseFeatures
from services.training.fit.linear_probe import case_classes
from services.training.fit.task_space import PRECISION_AT, precision_at, shown_frames, unit
from shared.vision.heads import LinearHead

Bools = NDArray[np.bool_]


def search_facts(head: LinearHead, test: Sequence[CaseFeatures], finding: Bools) -> SearchFacts:
    """Precision among the nearest cases by plain cosine, in the task's own space, and by chance.

    Args:
        head: With a projection.
        test: Cases that training never saw.
        finding: (C,) which classes are findings.
    """
    classes, patients = case_classes(test, head.labels), np.array([case.case.patient for case in test])
    shown = shown_frames(test, head, finding)
    projected = head.project(shown)
    if projected is None:
        raise ValueError("the head has no task space")
    others = [
        np.sum((classes == label) & (patients != patient)) for label, patient in zip(classes, patients, strict=True)
    ]
    chances = np.array(others) / np.array([np.sum(patients != patient) for patient in patients])
    return SearchFacts(
        cases=len(test),
        at=PRECISION_AT,
        raw=round(precision_at(unit(shown), classes, patients), 4),
        task_space=round(precision_at(projected, classes, patients), 4),
        chance=round(float(np.mean([chances[classes == label].mean() for label in np.unique(classes)])), 4),
        dimensions=projected.shape[1],
    )
