from __future__ import annotations

import numpy as np
import pytest

from services.training.metrics import balanced_accuracy, expected_calibration_error, measure

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
