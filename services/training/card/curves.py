"""The curves of a card as numbers: what its ROC and reliability figures show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.training.card.figures import roc_points
from services.training.measures.scores import CALIBRATION_BINS, auroc
from services.training.phantoms.shortcut_proof import wilson_interval
from shared.vision.curves import Curves, ReliabilityBin, RocCurve

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def card_curves(
    head_id: str, probabilities: Floats, classes: Ints, labels: tuple[str, ...], *, source: str | None = None
) -> Curves:
    """The curves of one set of cases.

    Args:
        head_id: Whose they are.
        probabilities: (N, C) calibrated.
        classes: (N,) true classes.
        labels: C names.
        source: What the set is called; None: as in the card.
    """
    return Curves(
        head_id=head_id,
        source=source,
        roc=tuple(_roc(label, probabilities[:, index], classes == index) for index, label in enumerate(labels)),
        calibration=_calibration(probabilities, classes),
    )


def _roc(label: str, scores: Floats, positive: NDArray[np.bool_]) -> RocCurve:
    false, true = roc_points(scores, positive)
    area = float(auroc(scores, positive)) if 0 < int(positive.sum()) < len(positive) else None
    points = tuple((round(float(x), 4), round(float(y), 4)) for x, y in zip(false, true, strict=True))
    return RocCurve(label=label, auroc=None if area is None else round(area, 4), points=points)


def _calibration(probabilities: Floats, classes: Ints) -> tuple[ReliabilityBin, ...]:
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    found = []
    for held in (bins == k for k in np.unique(bins)):
        low, high = wilson_interval(correct[held])
        found.append(
            ReliabilityBin(
                confidence=round(float(confidence[held].mean()), 4),
                accuracy=round(float(correct[held].mean()), 4),
                count=int(held.sum()),
                low=round(max(0.0, low), 4),
                high=round(min(1.0, high), 4),
            )
        )
    return tuple(found)
