"""Scores against scikit-learn's, and what must hold for any data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from services.training.measures.scores import (
    auroc,
    balanced_accuracy,
    brier_score,
    confusion_matrix,
    expected_calibration_error,
    expected_error_if_calibrated,
    f1_of_each,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)

COUNT = 4


def random_case(seed: int, n: int = 120, *, coarse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, COUNT, n)
    logits = rng.normal(size=(n, COUNT)) + 1.2 * np.eye(COUNT)[classes]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if coarse:  # ties
        probabilities = np.round(probabilities * 4) + 1
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities, classes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("coarse", [False, True])
def test_all_scores_agree_with_scikit_learn(seed: int, coarse: bool) -> None:
    probabilities, classes = random_case(seed, coarse=coarse)
    predicted = probabilities.argmax(axis=1)
    assert balanced_accuracy(predicted, classes) == pytest.approx(sk.balanced_accuracy_score(classes, predicted))
    assert f1_of_each(predicted, classes, COUNT) == pytest.approx(sk.f1_score(classes, predicted, average=None))
    assert confusion_matrix(predicted, classes, COUNT).tolist() == sk.confusion_matrix(classes, predicted).tolist()
    for k in range(COUNT):
        expected = sk.roc_auc_score(classes == k, probabilities[:, k])
        assert auroc(probabilities[:, k], classes == k) == pytest.approx(expected)
    assert negative_log_likelihood(probabilities, classes) == pytest.approx(sk.log_loss(classes, probabilities))
    one_class = [sk.brier_score_loss(classes == k, probabilities[:, k]) for k in range(COUNT)]
    assert brier_score(probabilities, classes) == pytest.approx(sum(one_class))


def test_what_the_data_do_not_define_is_nan() -> None:
    assert math.isnan(auroc(np.array([0.1, 0.9]), np.array([True, True])))
    f1 = f1_of_each(np.array([0, 1]), np.array([0, 0]), 3)
    assert f1[0] == pytest.approx(2 / 3)
    assert np.isnan(f1[1:]).all()


def test_an_impossible_truth_costs_much_but_not_everything() -> None:
    assert 20 < negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0])) < 30


def test_selective_risk_of_a_hand_made_case() -> None:
    curve = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve.area == pytest.approx((1 / 3 + 1 / 4) / 4)
    assert curve.at(0.5) == 0
    assert curve.at(0.6) == pytest.approx(1 / 3)
    assert curve.at(1.0) == pytest.approx(1 / 4)


scored = st.lists(st.tuples(st.sampled_from([0.1, 0.35, 0.5, 0.71, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40)


@given(scored, st.randoms(use_true_random=False))
def test_the_order_of_studies_changes_nothing(case: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(case)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for one in (case, shuffled):
        confidence, correct = np.array([c for c, _ in one]), np.array([r for _, r in one])
        results.append((*risk_coverage(confidence, correct).risk, expected_calibration_error(confidence, correct)))
    assert results[0] == pytest.approx(results[1])


@given(scored)
def test_full_coverage_is_the_error_rate_and_errors_lie_in_bounds(case: list[tuple[float, bool]]) -> None:
    confidence, correct = np.array([c for c, _ in case]), np.array([r for _, r in case])
    curve = risk_coverage(confidence, correct)
    assert curve.risk[-1] == pytest.approx(1 - correct.mean())
    assert (curve.risk >= -1e-12).all()
    assert (curve.risk <= 1 + 1e-12).all()
    error = expected_calibration_error(confidence, correct)
    assert 0 <= error <= 1
    bins = reliability(confidence, correct)
    assert sum(one.count for one in bins) == len(case)
    assert error == pytest.approx(sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / len(case))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 5))
def test_auroc_turns_around_with_the_scores_and_ignores_monotone_changes(scores: list[float], seed: int) -> None:
    values = np.round(np.array(scores), 3)
    positive = np.random.default_rng(seed).random(len(values)) < 0.5
    if positive.all() or not positive.any():
        return
    area = auroc(values, positive)
    assert auroc(-values, positive) == pytest.approx(1 - area)
    assert auroc(np.exp(3 * values), positive) == pytest.approx(area)


def test_few_calibrated_answers_show_a_calibration_error_by_chance() -> None:
    confidence = np.random.default_rng(0).uniform(0.5, 1.0, 2000)
    assert expected_error_if_calibrated(confidence[:40]) > 0.06
    assert expected_error_if_calibrated(confidence) < 0.025
