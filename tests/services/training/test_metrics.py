from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from services.training.measures.metrics import balanced_accuracy, expected_calibration_error, measure

LABELS = ("a", "b")


def test_accuracy_recall_and_confusion_of_a_hand_made_case() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.55, 0.45]])
    classes = np.array([0, 0, 1, 1])
    metrics = measure(probabilities, classes, LABELS, subjects=np.arange(4), abstain_below=0.58)
    assert metrics.accuracy.value == 0.75
    assert metrics.confusion == [[2, 0], [1, 1]]
    assert metrics.recall == {"a": 1.0, "b": 0.5}
    assert metrics.coverage == 0.75
    assert metrics.accuracy_answered == 1.0
    assert metrics.accuracy.low <= 0.75 <= metrics.accuracy.high


def test_balanced_accuracy_weighs_classes_alike() -> None:
    classes = np.array([0] * 9 + [1])
    assert balanced_accuracy(np.zeros(10, int), classes) == 0.5


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = np.full(100, 0.75)
    assert expected_calibration_error(confidence, np.arange(100) < 75) == pytest.approx(0.0)
    assert expected_calibration_error(confidence, np.arange(100) < 25) == pytest.approx(0.5)


def test_frames_of_one_subject_are_drawn_together() -> None:
    # Two subjects, one all right, one all wrong: half of the time both draws agree, so the interval is all of 0 to 1.
    probabilities = np.repeat([[0.9, 0.1]], 20, axis=0)
    classes = np.repeat([0, 1], 10)
    grouped = measure(probabilities, classes, LABELS, subjects=np.repeat([0, 1], 10), abstain_below=0)
    alone = measure(probabilities, classes, LABELS, subjects=np.arange(20), abstain_below=0)
    assert (grouped.accuracy.low, grouped.accuracy.high) == (0.0, 1.0)
    assert alone.accuracy.low > 0.2
    assert alone.accuracy.high < 0.8


def test_nothing_answered_has_no_accuracy() -> None:
    metrics = measure(np.array([[0.6, 0.4]]), np.array([0]), LABELS, subjects=np.arange(1), abstain_below=0.9)
    assert metrics.coverage == 0
    assert metrics.accuracy_answered is None


def test_all_right_is_not_certainty() -> None:
    probabilities = np.repeat([[0.9, 0.1]], 20, axis=0)
    metrics = measure(probabilities, np.zeros(20, int), LABELS, subjects=np.arange(20), abstain_below=0)
    assert metrics.accuracy.value == 1.0
    assert metrics.accuracy.low == pytest.approx(0.025 ** (1 / 20), abs=1e-3)
    few_patients = measure(probabilities, np.zeros(20, int), LABELS, subjects=np.arange(20) // 5, abstain_below=0)
    assert few_patients.patients == 4
    assert few_patients.accuracy.low < metrics.accuracy.low


def test_findings_are_summed_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 90)
    probabilities = rng.dirichlet(np.ones(3), 90)
    probabilities[np.arange(90), classes] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    finding = np.array([False, True, True])
    metrics = measure(
        probabilities, classes, ("n", "a", "b"), subjects=np.arange(90), abstain_below=0, finding=finding, draws=100
    )
    assert metrics.auroc_finding is not None
    assert metrics.auroc_finding.value == pytest.approx(
        roc_auc_score(classes > 0, probabilities[:, 1:].sum(axis=1)), abs=1e-4
    )
    assert metrics.auroc_macro is not None
    assert metrics.auroc_macro.value == pytest.approx(
        roc_auc_score(classes, probabilities, multi_class="ovr"), abs=1e-4
    )
    assert metrics.ece_interval is not None
    assert metrics.ece == metrics.ece_interval.value
