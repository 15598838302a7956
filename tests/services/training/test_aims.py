"""A figure that misses its aim is called missed, and one that too few studies cannot tell is not."""

from __future__ import annotations

import pytest

from services.training.evaluation.aims import calibration_verdict, false_flag_verdict, strange_verdict
from services.training.evaluation.report import SetFigures, StrangeFigures
from services.training.measures.bootstrap import Estimate, exact_share
from services.training.measures.metrics import Metrics

SHARE = Estimate(value=0.8, low=0.7, high=0.9)


def a_set(
    ece: float = 0.0, by_chance: float | None = None, flagged: Estimate | None = None, low: float | None = None
) -> SetFigures:
    interval = None if low is None else Estimate(value=ece, low=low, high=1.0)
    metrics = Metrics(
        n=48, accuracy=SHARE, balanced_accuracy=SHARE, ece=ece, ece_if_calibrated=by_chance, recall={}, confusion=[],
        coverage=1.0, accuracy_answered=None, ece_interval=interval,
    )  # fmt: skip
    return SetFigures(title="Fresh", metrics=metrics, risk=(), flagged=flagged)


def strange(auroc: float, *, is_required: bool = True) -> StrangeFigures:
    return StrangeFigures(
        kind="noise", n=9, auroc=auroc, flagged=exact_share(9, 9), distance=2.0, is_required=is_required
    )


@pytest.mark.parametrize(
    ("ece", "by_chance", "met"),
    [
        (0.05, 0.01, True),
        (0.05, 0.09, True),
        (0.051, 0.05, False),
        (0.08, None, False),
        (0.08, 0.07, False),  # chance alone misses the aim, and the head is worse than chance
        (0.08, 0.08, None),
    ],
)
def test_calibration_is_told_where_the_studies_are_many_enough(ece: float, by_chance: float | None, met: bool | None):
    assert calibration_verdict(a_set(ece, by_chance)).met is met


@pytest.mark.parametrize(("low", "met"), [(0.04, None), (0.07, None), (0.071, False)])
def test_an_error_within_its_interval_of_chance_is_not_called_missed(low: float, met: bool | None):
    assert calibration_verdict(a_set(0.12, 0.07, low=low)).met is met


def test_only_kinds_that_must_be_told_apart_can_miss():
    assert strange_verdict(strange(0.95)).met is True
    assert strange_verdict(strange(0.9499)).met is False
    assert strange_verdict(strange(0.5, is_required=False)).met is None


@pytest.mark.parametrize(("hits", "of", "met"), [(0, 48, True), (1, 50, True), (2, 48, None), (6, 48, False)])
def test_false_flags_are_missed_where_they_are_clearly_above_the_stated_rate(hits: int, of: int, met: bool | None):
    assert false_flag_verdict(a_set(flagged=exact_share(hits, of))).met is met


def test_false_flags_that_were_not_measured_are_no_hit():
    assert false_flag_verdict(a_set()).met is None
