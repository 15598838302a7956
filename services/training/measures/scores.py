"""Figures of a classifier on N studies (or frames): plain numbers, no intervals; see `metrics` for those.

`probabilities` is (N, C) with rows that sum to 1, `classes` (N,) the true class of each row. A figure that the
data do not define (the AUROC of a class that does not occur) is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CALIBRATION_BINS: Final = 10
_SMALLEST_PROBABILITY: Final = 1e-12


def balanced_accuracy(predicted: Ints, classes: Ints) -> float:
    """Mean recall of the classes that occur."""
    return float(np.mean([(predicted[classes == k] == k).mean() for k in np.unique(classes)]))


def f1_of_each(predicted: Ints, classes: Ints, count: int) -> Floats:
    """(C,) F1 of each of `count` classes; NaN for a class that does not occur in the truth."""
    confusion = confusion_matrix(predicted, classes, count)
    occurs = confusion.sum(axis=1) > 0
    denominator = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1: Floats = np.where(occurs, 2 * np.diag(confusion) / np.maximum(denominator, 1), np.nan)
    return f1


def confusion_matrix(predicted: Ints, classes: Ints, count: int) -> Ints:
    """(C, C) counts, true classes down, predicted ones across."""
    confusion: Ints = np.bincount(classes * count + predicted, minlength=count * count).reshape(count, count)
    return confusion


def auroc(scores: Floats, positive: Bools) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half (Mann-Whitney)."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(confidence: Floats, correct: Bools) -> float:
    """Mean gap between confidence and accuracy over ten equal bins, weighted by their size (Guo et al. 2017)."""
    bins = _bins(confidence)
    gap: Floats = np.abs(np.bincount(bins, confidence - correct, CALIBRATION_BINS))
    return float(gap.sum() / len(confidence))


def expected_error_if_calibrated(confidence: Floats, *, draws: int = 200, seed: int = 0) -> float:
    """The calibration error that perfectly calibrated answers of this confidence show on average by chance alone.

    The error is never negative, so that few studies show one however well calibrated the head is.
    """
    rng = np.random.default_rng(seed)
    correct = rng.random((draws, len(confidence))) < confidence
    return float(np.mean([expected_calibration_error(confidence, one) for one in correct]))


def brier_score(probabilities: Floats, classes: Ints) -> float:
    """Mean squared distance of the probabilities to the truth, summed over classes: 0 best, 2 worst (Brier 1950)."""
    truth = np.eye(probabilities.shape[1])[classes]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: Floats, classes: Ints) -> float:
    """Mean of -log p(true class), in nats."""
    chosen = probabilities[np.arange(len(classes)), classes]
    return float(-np.log(np.maximum(chosen, _SMALLEST_PROBABILITY)).mean())


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Share of wrong answers when only the surest are answered (Geifman & El-Yaniv 2017).

    Attributes:
        coverage: (N,) rising share answered: 1/N to 1.
        risk: (N,) share of wrong ones among the answered.
    """

    coverage: Floats
    risk: Floats

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages; 0 best."""
        return float(self.risk.mean())

    def at(self, coverage: float) -> float:
        """The risk when at least this share is answered."""
        return float(self.risk[min(int(np.searchsorted(self.coverage, coverage - 1e-9)), len(self.risk) - 1)])


def risk_coverage(confidence: Floats, correct: Bools) -> RiskCoverage:
    """The selective-risk curve; equally sure answers are taken in an order drawn at random, on average."""
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], (~correct[order]).astype(np.float64)
    _, group, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    wrong = (np.bincount(group, wrong) / sizes)[group]
    answered = np.arange(1, len(sure) + 1)
    return RiskCoverage(answered / len(sure), np.cumsum(wrong) / answered)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of confidence."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: Floats, correct: Bools) -> tuple[ReliabilityBin, ...]:
    """Mean confidence and accuracy of each bin that holds an answer."""
    bins = _bins(confidence)
    return tuple(
        ReliabilityBin(
            k / CALIBRATION_BINS,
            (k + 1) / CALIBRATION_BINS,
            int((bins == k).sum()),
            float(confidence[bins == k].mean()),
            float(correct[bins == k].mean()),
        )
        for k in range(CALIBRATION_BINS)
        if np.any(bins == k)
    )


def _bins(confidence: Floats) -> Ints:
    bins: Ints = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return bins
