"""Nearest neighbours on frozen features: what search alone would say, reported beside the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.features.case_features import CaseFeatures
from services.training.features.frame_views import Floats32
from services.training.fit.linear_probe import FrameRows, case_classes, folds_of, stack_frames
from shared.vision.aggregate import aggregate

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEIGHBOURS: Final = (1, 3, 5, 9, 15, 25)
_CHUNK: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Labelled frames, and how many of them vote.

    Attributes:
        features: (N, F) standardised, of L2 norm 1.
        classes: (N,).
        k: The number that cross-validation chose.
        mean: (F,).
        scale: (F,).
    """

    features: Floats32
    classes: Ints
    k: int
    mean: Floats32
    scale: Floats32


def fit_neighbours(cases: Sequence[CaseFeatures], labels: tuple[str, ...], finding: Bools, seed: int) -> Neighbours:
    """All frames of `cases`, with the k that names most left-out cases right."""
    rows, classes = stack_frames(cases, labels), case_classes(cases, labels)
    right = dict.fromkeys(NEIGHBOURS, 0)
    for train, test in folds_of(cases, classes, "patient", seed):
        seen, unseen = rows.of(train), rows.of(test)
        gallery = _gallery(seen, NEIGHBOURS[-1])
        nearest = _nearest(gallery, unseen.joined)
        for k in NEIGHBOURS:
            logits = _votes(gallery.classes[nearest[:, :k]], len(labels))
            for index in test:
                score = aggregate(logits[unseen.case == index], finding, 1.0)
                right[k] += int(score.logits.argmax() == classes[index])
    return _gallery(rows, max(NEIGHBOURS, key=lambda k: (right[k], -k)))


def neighbour_probabilities(
    neighbours: Neighbours, cases: Sequence[CaseFeatures], labels: tuple[str, ...], finding: Bools
) -> Floats:
    """(N, C) shares of the neighbours' votes, aggregated to cases as a head's scores are."""
    found = []
    for case in cases:
        nearest = _nearest(neighbours, case.joined)
        logits = _votes(neighbours.classes[nearest], len(labels))
        found.append(aggregate(logits, finding, 1.0).probabilities)
    return np.stack(found)


def _gallery(rows: FrameRows, k: int) -> Neighbours:
    mean, scale = rows.joined.mean(axis=0), np.maximum(rows.joined.std(axis=0), 1e-6)
    return Neighbours(_unit((rows.joined - mean) / scale), rows.classes, min(k, len(rows.classes)), mean, scale)


def _nearest(gallery: Neighbours, joined: Floats32) -> Ints:
    """(N, k) indices, the nearest first."""
    parts = []
    for start in range(0, len(joined), _CHUNK):
        queries = _unit((joined[start : start + _CHUNK] - gallery.mean) / gallery.scale)
        parts.append(np.argsort(-(queries @ gallery.features.T), axis=1, kind="stable")[:, : gallery.k])
    return np.concatenate(parts)


def _votes(classes: Ints, count: int) -> Floats:
    """(N, C) logarithms of the smoothed shares of (N, k) neighbours' classes: half a vote for each class."""
    shares = np.stack([(classes == label).sum(axis=1) for label in range(count)], axis=1) + 0.5
    logarithms: Floats = np.log(shares / shares.sum(axis=1, keepdims=True))
    return logarithms


def _unit(features: Floats32) -> Floats32:
    normalised: Floats32 = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    return normalised
