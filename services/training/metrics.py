"""Figures of a classifier, with intervals by bootstrap over subjects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BOOTSTRAPS: Final = 1000
_BINS: Final = 10


class Estimate(BaseModel):
    """A figure with its 95 % bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Metrics(BaseModel):
    """How well probabilities (N, C) meet the true classes (N,).

    Attributes:
        n: Studies or frames judged.
        confusion: (C, C) counts, true classes down, predicted ones across.
        recall: Per class; the share of the class that was predicted as such.
        ece: Expected calibration error of the top probability, ten equal bins (Guo et al. 2017).
        coverage: Share that was answered, not abstained from.
        accuracy_answered: Accuracy among those; null if none.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    ece: float
    recall: dict[str, float | None]
    confusion: list[list[int]]
    coverage: float
    accuracy_answered: float | None


def measure(
    probabilities: Floats, classes: Ints, labels: tuple[str, ...], *, subjects: Ints, abstain_below: float
) -> Metrics:
    """Measure `probabilities` (N, C) against the true `classes` (N,); `subjects` (N,) groups the bootstrap."""
    predicted = probabilities.argmax(axis=1)
    top = probabilities.max(axis=1)
    correct = predicted == classes
    answered = top >= abstain_below
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (classes, predicted), 1)
    totals = confusion.sum(axis=1)
    return Metrics(
        n=len(classes),
        accuracy=_bootstrap(lambda at: float(correct[at].mean()), subjects),
        balanced_accuracy=_bootstrap(lambda at: balanced_accuracy(predicted[at], classes[at]), subjects),
        ece=round(expected_calibration_error(top, correct), 4),
        recall={
            label: round(float(confusion[k, k] / totals[k]), 4) if totals[k] else None for k, label in enumerate(labels)
        },
        confusion=confusion.tolist(),
        coverage=round(float(answered.mean()), 4),
        accuracy_answered=round(float(correct[answered].mean()), 4) if answered.any() else None,
    )


def balanced_accuracy(predicted: Ints, classes: Ints) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([(predicted[classes == k] == k).mean() for k in np.unique(classes)]))


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over ten bins of confidence, weighted by their size."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [
        (bins == k).mean() * abs(confidence[bins == k].mean() - correct[bins == k].mean())
        for k in range(_BINS)
        if np.any(bins == k)
    ]
    return float(np.sum(gaps))


def _bootstrap(figure: Callable[[Ints], float], subjects: Ints) -> Estimate:
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(subjects == subject) for subject in np.unique(subjects)]
    drawn = [
        figure(np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))]))
        for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = figure(np.arange(len(subjects)))
    return Estimate(value=round(value, 4), low=round(float(low), 4), high=round(float(high), 4))
