from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from services.training.measures.bootstrap import bootstrap, exact_share


def mean_interval(values: np.ndarray, patients: np.ndarray, seed: int = 0, draws: int = 200):
    found = bootstrap(lambda at: {"mean": float(values[at].mean())}, patients, draws=draws, seed=seed)["mean"]
    assert found is not None
    return found


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(150):
        # 60 patients of one to three studies; a patient's studies share an effect.
        sizes = rng.integers(1, 4, 60)
        values = np.concatenate([rng.normal() + 0.3 * rng.normal(size=size) for size in sizes])
        patients = np.repeat(np.arange(60), sizes)
        found = mean_interval(values, patients, seed)
        hits += found.low <= 0.0 <= found.high
    assert 0.89 <= hits / 150 <= 0.99


def test_taking_studies_for_patients_makes_intervals_too_narrow() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(size=20), 10)
    by_patient = mean_interval(values, np.repeat(np.arange(20), 10))
    by_study = mean_interval(values, np.arange(200))
    assert by_patient.high - by_patient.low > 2 * (by_study.high - by_study.low)


def test_the_seed_alone_decides() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert mean_interval(values, np.arange(30), 5) == mean_interval(values, np.arange(30), 5)
    assert mean_interval(values, np.arange(30), 5) != mean_interval(values, np.arange(30), 6)


def test_draws_that_do_not_define_a_figure_are_left_out() -> None:
    positive = np.array([True, False, False])

    def figures(at: np.ndarray) -> dict[str, float]:
        return {"share": 1.0 if positive[at].any() else float("nan"), "never": float("nan")}

    found = bootstrap(figures, np.arange(3), draws=50)
    assert found["never"] is None
    assert found["share"] is not None
    assert (found["share"].low, found["share"].high) == (1.0, 1.0)


@given(st.integers(1, 200).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_exact_shares_are_clopper_and_pearsons(case: tuple[int, int]) -> None:
    hits, of = case
    expected = binomtest(hits, of).proportion_ci(method="exact")
    found = exact_share(hits, of)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_share_of_nothing_is_refused() -> None:
    for hits, of in ((0, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match="no share"):
            exact_share(hits, of)
