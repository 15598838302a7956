"""How well a head's probabilities meet the truth, with intervals over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from services.training.measures.bootstrap import BOOTSTRAPS, Estimate, bootstrap, exact_share
from services.training.measures.scores import (
    Bools,
    Floats,
    Ints,
    auroc,
    balanced_accuracy,
    brier_score,
    confusion_matrix,
    expected_calibration_error,
    expected_error_if_calibrated,
    f1_of_each,
    negative_log_likelihood,
    risk_coverage,
)

__all__ = ["Estimate", "Floats", "Ints", "Metrics", "balanced_accuracy", "expected_calibration_error", "measure"]


class Metrics(BaseModel):
    """How well probabilities (N, C) meet the true classes (N,).

    Attributes:
        n: Studies or frames judged.
        patients: Whose they are: the unit of every interval.
        confusion: (C, C) counts, true classes down, predicted ones across.
        recall: Per class; the share of the class that was predicted as such.
        f1: Per class; `f1_macro` is the mean over the classes that occur.
        auroc: Per class, against the rest; `auroc_macro` is the mean over the classes that occur.
        auroc_finding: Of the findings' summed probability, findings against the others.
        ece: Expected calibration error of the top probability, ten equal bins (Guo et al. 2017).
        ece_if_calibrated: What a perfectly calibrated head of these confidences shows by chance on as many studies.
        brier: Squared distance to the truth summed over classes, 0 to 2.
        nll: Negative log-likelihood, in nats.
        aurc: Area under the selective-risk curve (Geifman & El-Yaniv 2017).
        coverage: Share that was answered, not abstained from.
        accuracy_answered: Accuracy among those; null if none.
    """

    model_config = ConfigDict(frozen=True)

    n: int
    patients: int | None = None
    accuracy: Estimate
    balanced_accuracy: Estimate
    f1_macro: Estimate | None = None
    f1: dict[str, float | None] = {}
    auroc_macro: Estimate | None = None
    auroc: dict[str, float | None] = {}
    auroc_finding: Estimate | None = None
    ece: float
    ece_interval: Estimate | None = None
    ece_if_calibrated: float | None = None
    brier: Estimate | None = None
    nll: Estimate | None = None
    aurc: Estimate | None = None
    recall: dict[str, float | None]
    confusion: list[list[int]]
    coverage: float
    accuracy_answered: float | None


def measure(
    probabilities: Floats,
    classes: Ints,
    labels: tuple[str, ...],
    *,
    subjects: NDArray[Any],
    abstain_below: float,
    finding: Bools | None = None,
    draws: int = BOOTSTRAPS,
    seed: int = 0,
) -> Metrics:
    """Measure `probabilities` against the truth.

    Args:
        probabilities: (N, C), rows sum to 1.
        classes: (N,) true classes.
        labels: C names.
        subjects: (N,) patients: what the bootstrap draws.
        abstain_below: Answers less sure than this are left out of the answered.
        finding: (C,) which classes are findings; unset: no `auroc_finding`.
        draws: Bootstrap samples.
        seed: Of the bootstrap.
    """
    predicted: Ints = probabilities.argmax(axis=1)
    top = probabilities.max(axis=1)
    correct = predicted == classes
    answered = top >= abstain_below

    def figures(at: Ints) -> dict[str, float]:
        f1 = f1_of_each(predicted[at], classes[at], len(labels))
        areas = _areas(probabilities[at], classes[at])
        shares = probabilities[at]
        return {
            "accuracy": float(correct[at].mean()),
            "balanced_accuracy": balanced_accuracy(predicted[at], classes[at]),
            "f1_macro": _mean(f1),
            "auroc_macro": _mean(areas),
            "auroc_finding": float("nan")
            if finding is None
            else auroc(shares[:, finding].sum(axis=1), finding[classes[at]]),
            "ece_interval": expected_calibration_error(top[at], correct[at]),
            "brier": brier_score(shares, classes[at]),
            "nll": negative_log_likelihood(shares, classes[at]),
            "aurc": risk_coverage(top[at], correct[at]).area,
        }

    estimates = bootstrap(figures, subjects, draws=draws, seed=seed)
    patients = len(np.unique(subjects))
    accuracy, balanced = estimates["accuracy"], estimates["balanced_accuracy"]
    if accuracy is None or balanced is None:
        raise ValueError("nothing to measure")
    if correct.all() or not correct.any():
        # Resampling equal values shows no spread: as if as many patients were all right, or all wrong.
        accuracy = balanced = exact_share(patients if correct.all() else 0, patients)
    confusion = confusion_matrix(predicted, classes, len(labels))
    totals = confusion.sum(axis=1)
    return Metrics(
        n=len(classes),
        patients=patients,
        **estimates | {"accuracy": accuracy, "balanced_accuracy": balanced},
        f1=_by_label(labels, f1_of_each(predicted, classes, len(labels))),
        auroc=_by_label(labels, _areas(probabilities, classes)),
        ece=round(expected_calibration_error(top, correct), 4),
        ece_if_calibrated=round(expected_error_if_calibrated(top, seed=seed), 4),
        recall=_by_label(labels, np.where(totals > 0, np.diag(confusion) / np.maximum(totals, 1), np.nan)),
        confusion=confusion.tolist(),
        coverage=round(float(answered.mean()), 4),
        accuracy_answered=round(float(correct[answered].mean()), 4) if answered.any() else None,
    )


def _areas(probabilities: Floats, classes: Ints) -> Floats:
    """(C,) AUROC of each class against the rest."""
    return np.array([auroc(column, classes == k) for k, column in enumerate(probabilities.T)])


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _by_label(labels: tuple[str, ...], values: Floats) -> dict[str, float | None]:
    return {
        label: None if np.isnan(value) else round(float(value), 4) for label, value in zip(labels, values, strict=True)
    }
