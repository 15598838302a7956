"""Frame logits to a study's score."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from shared.vision.aggregate import KEPT_FRACTION, aggregate, finding_margins, intervals

FINDING = np.array([False, True, True])
HEALTHY, LESION = (4.0, -2.0, -2.0), (-3.0, 4.0, 0.0)


@pytest.mark.parametrize("slices", [1, 8, 64, 200, 1000])
def test_a_lesion_in_one_slice_of_many_is_not_averaged_away(slices):
    logits = np.array([HEALTHY] * slices)
    logits[slices // 3] = LESION
    score = aggregate(logits, FINDING, 1.0)
    assert np.argmax(score.probabilities) == 1
    assert score.evidence[0] == slices // 3


def test_frames_alike_weigh_alike():
    score = aggregate(np.array([LESION] * 8), FINDING, 1.0)
    np.testing.assert_allclose(score.logits, LESION)


def test_a_healthy_study_stays_healthy_with_more_frames():
    rng = np.random.default_rng(0)
    for count in (1, 10, 100):
        logits = np.array(HEALTHY) + rng.normal(0, 0.7, (count, 3))
        assert np.argmax(aggregate(logits, FINDING, 1.0).probabilities) == 0


@given(
    npst.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-30, 30)), st.floats(0.1, 10)
)
def test_probabilities_are_probabilities_and_evidence_is_a_quarter(logits, temperature):
    score = aggregate(logits, FINDING, temperature)
    assert score.probabilities.sum() == pytest.approx(1)
    assert score.probabilities.min() >= 0
    assert len(set(score.evidence)) == len(score.evidence) == math.ceil(len(logits) / 4)


@given(npst.arrays(np.float64, (12, 3), elements=st.floats(-9, 9), unique=True), st.permutations(range(12)))
def test_the_order_of_the_frames_does_not_matter(logits, order):
    straight, shuffled = aggregate(logits, FINDING, 1.0), aggregate(logits[order], FINDING, 1.0)
    np.testing.assert_allclose(straight.probabilities, shuffled.probabilities, atol=1e-9)


def test_the_temperature_softens_but_does_not_reweigh():
    logits = np.random.default_rng(3).normal(0, 3, (20, 3))
    sharp, soft = aggregate(logits, FINDING, 1.0), aggregate(logits, FINDING, 5.0)
    np.testing.assert_array_equal(sharp.logits, soft.logits)
    assert soft.probabilities.max() < sharp.probabilities.max()


def test_the_margin_is_the_log_odds_of_any_finding():
    logits = np.array([[1.0, 0.3, -0.5]])
    odds = (np.exp(0.3) + np.exp(-0.5)) / np.exp(1.0)
    np.testing.assert_allclose(finding_margins(logits, FINDING), np.log(odds))


@pytest.mark.parametrize("finding", [[True, True, True], [False, False, False]])
def test_classes_of_one_kind_are_scored_by_the_surest_frames(finding):
    logits = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    assert aggregate(logits, np.array(finding), 1.0).evidence == (1,)


def test_no_frames_have_no_score():
    with pytest.raises(ValueError, match="without frames"):
        aggregate(np.zeros((0, 3)), FINDING, 1.0)


@given(
    npst.arrays(np.float64, st.tuples(st.integers(2, 300), st.just(3)), elements=st.floats(-8, 8)),
    st.floats(0.5, 20.0),
)
def test_a_frame_that_stands_out_has_at_least_the_weight_that_is_promised(others, ahead):
    """1 / (1 + (K - 1) exp(h - m)): the docstring's bound, whatever the other frames are."""
    highest = finding_margins(others, FINDING).max()
    lesion = np.array([0.0, highest + ahead, -60.0])  # its margin is that difference, to within exp(-60)
    score = aggregate(np.vstack([others, lesion]), FINDING, 1.0)
    kept = math.ceil(KEPT_FRACTION * (len(others) + 1))
    weight = 1 / (1 + (kept - 1) * np.exp(-ahead))
    floor = weight * lesion[1] + (1 - weight) * min(others[:, 1].min(), lesion[1])
    assert score.logits[1] >= floor - 1e-6


@given(st.integers(0, 399), st.integers(0, 2**32 - 1), st.floats(0.5, 2.0))
def test_one_lesion_slice_among_hundreds_of_healthy_ones_makes_a_finding(healthy, seed, temperature):
    rng = np.random.default_rng(seed)
    logits = np.vstack([rng.normal(HEALTHY, 0.7, (healthy, 3)), LESION])
    score = aggregate(rng.permutation(logits), FINDING, temperature)
    assert np.argmax(score.logits) == 1
    assert score.probabilities[FINDING].sum() > 0.85


@pytest.mark.parametrize("slices", [8, 64, 200])
def test_one_lesion_slice_is_named_with_the_logits_of_a_trained_head(slices):
    """Mean and covariance over 57 healthy frames, and a typical metastasis-like frame, of the brain phantom's head."""
    finding = np.array([False, True, True, True])
    mean = [6.87, -0.86, -0.90, -2.37]
    covariance = [
        [3.96, -1.69, 0.79, -3.06],
        [-1.69, 6.66, -6.07, 1.10],
        [0.79, -6.07, 8.30, -3.02],
        [-3.06, 1.10, -3.02, 4.98],
    ]
    # Logits sum to about 0, so the matrix is singular: some processors' Cholesky took it, some did not.
    covariance = np.array(covariance) + 0.01 * np.eye(4)
    lesion = np.array([-0.77, -0.48, -1.46, 5.45])
    rng = np.random.default_rng(0)
    studies = [
        np.vstack([rng.multivariate_normal(mean, covariance, slices - 1, method="cholesky"), lesion]) for _ in range(40)
    ]
    named = [int(np.argmax(aggregate(logits, finding, 3.03).probabilities)) for logits in studies]
    assert named.count(3) >= 36  # normal tails are heavier than the head's own
    assert all(np.argmax(logits.mean(axis=0)) == 0 for logits in studies)  # a plain mean sees none of them


@settings(max_examples=40)
@given(
    npst.arrays(np.float64, st.tuples(st.integers(2, 30), st.just(3)), elements=st.floats(-9, 9), unique=True),
    st.randoms(use_true_random=False),
)
def test_an_interval_holds_the_score_and_does_not_depend_on_the_order(logits, random):
    ends = intervals(logits, FINDING, 1.5)
    own = aggregate(logits, FINDING, 1.5).probabilities
    assert (ends[:, 0] <= own).all()
    assert (own <= ends[:, 1]).all()
    assert ((ends >= 0) & (ends <= 1)).all()
    order = random.sample(range(len(logits)), len(logits))
    np.testing.assert_allclose(intervals(logits[order], FINDING, 1.5), ends, atol=1e-9)


def test_the_interval_of_a_lesion_in_one_slice_says_that_it_rests_on_that_slice():
    one, many = np.array([HEALTHY] * 64), np.array([LESION] * 64)
    one[20] = LESION
    low, high = intervals(one, FINDING, 1.0)[1]
    assert low < 0.1
    assert high > 0.9
    low, high = intervals(many, FINDING, 1.0)[1]
    assert high - low < 1e-9


def test_a_single_frame_has_no_interval():
    assert intervals(np.array([LESION]), FINDING, 1.0) is None
