"""Frame logits to a study's score."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from shared.vision.aggregate import aggregate, finding_margins

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
