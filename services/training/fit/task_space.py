"""Task space: a supervised projection of class tokens, in which the nearest images are of the same class.

Plain cosine finds the same anatomy rather than the same finding. Here the variation within classes is whitened
away (shrinkage LDA, Friedman 1989; Ledoit & Wolf 2004 for why to shrink) and the directions between classes are
stretched; the rest is kept at its own length, so that among images of one class the similar ones still come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.features.case_features import CaseFeatures
from services.training.features.frame_views import Floats32
from services.training.fit.linear_probe import FrameRows, case_classes, folds_of
from shared.vision.aggregate import finding_margins
from shared.vision.heads import LinearHead, Projection

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DIMENSIONS: Final = 16  # 25 kB in the head of a small backbone
PRECISION_AT: Final = 5
SHRINKAGES: Final = (0.1, 0.3, 0.6)
GAINS: Final = (1.0, 3.0, 10.0)  # of the directions between classes


@dataclass(frozen=True, slots=True)
class ProjectionChoice:
    """What cross-validation chose."""

    projection: Projection
    shrinkage: float
    gain: float


def fit_projection(
    cases: Sequence[CaseFeatures], rows: FrameRows, labels: tuple[str, ...], head: LinearHead, finding: Bools, seed: int
) -> ProjectionChoice:
    """The projection whose shrinkage and gain give the best P@5 among left-out patients.

    Args:
        cases: Training cases.
        rows: Their frames that the probe was fitted on.
        labels: C labels.
        head: Chooses the frame that stands for a case.
        finding: (C,) which classes are findings.
        seed: Of the folds.
    """
    classes = case_classes(cases, labels)
    shown, patients = shown_frames(cases, head, finding), np.array([case.case.patient for case in cases])
    folds = folds_of(cases, classes, "patient", seed)
    scores: dict[tuple[float, float], list[float]] = {}
    for train, test in folds:
        seen = rows.of(train)
        for shrinkage in SHRINKAGES:
            for gain in GAINS:
                projected = project(seen.cls, seen.classes, shrinkage, gain)(shown[test])
                precision = precision_at(projected, classes[test], patients[test])
                scores.setdefault((shrinkage, gain), []).append(precision)
    shrinkage, gain = max(scores, key=lambda choice: float(np.mean(scores[choice])))
    return ProjectionChoice(project(rows.cls, rows.classes, shrinkage, gain), shrinkage, gain)


def project(cls: Floats32, classes: Ints, shrinkage: float, gain: float) -> Projection:
    """The projection of class tokens (N, D) of `classes` (N,)."""
    features = np.asarray(cls, np.float64)
    present = np.unique(classes)
    means = np.stack([features[classes == label].mean(axis=0) for label in present])
    within = features - means[np.searchsorted(present, classes)]
    covariance = within.T @ within / max(1, len(features) - len(present))
    width = len(covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / width * np.eye(width)
    values, vectors = np.linalg.eigh(covariance)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-12)) @ vectors.T
    centre = means.mean(axis=0)
    between = np.linalg.svd((means - centre) @ whiten, full_matrices=False)[2][: len(present) - 1]
    rest = (features - centre) @ whiten
    rest -= rest @ between.T @ between
    kept = max(0, min(DIMENSIONS, width, len(features)) - len(between))
    others = np.linalg.svd(rest, full_matrices=False)[2][:kept]
    matrix = np.concatenate([gain * between, others]) @ whiten
    return Projection(matrix.astype(np.float32), centre.astype(np.float32))


def shown_frames(cases: Sequence[CaseFeatures], head: LinearHead, finding: Bools) -> Floats32:
    """(N, D) class token of the frame of each case that looks most like a finding."""
    return np.stack([case.cls[finding_margins(head.logits(case.joined), finding).argmax()] for case in cases])


def precision_at(vectors: Floats32, classes: Ints, patients: NDArray[np.str_], at: int = PRECISION_AT) -> float:
    """Mean over the classes of the share of the nearest `at` of another patient that are of the query's class.

    Args:
        vectors: (N, K) of L2 norm 1.
        classes: (N,).
        patients: (N,).
        at: How many neighbours.
    """
    similarity = vectors @ vectors.T
    similarity[patients[:, None] == patients] = -np.inf
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :at]
    share = (classes[nearest] == classes[:, None]).mean(axis=1)
    return float(np.mean([share[classes == label].mean() for label in np.unique(classes)]))


def unit(vectors: Floats32) -> Floats32:
    """Vectors of L2 norm 1."""
    normalised: Floats32 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return normalised
