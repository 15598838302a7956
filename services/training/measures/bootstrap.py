"""Intervals by bootstrap over patients: all studies of a drawn patient are drawn together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import beta

from services.training.measures.scores import Ints

BOOTSTRAPS: Final = 1000
_OUTER: Final = (0.025, 0.975)


class Estimate(BaseModel):
    """A figure with its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(
    figures: Callable[[Ints], Mapping[str, float]],
    patients: NDArray[Any],
    *,
    draws: int = BOOTSTRAPS,
    seed: int = 0,
) -> dict[str, Estimate | None]:
    """Percentile intervals of several figures at once (Efron 1979), patients as the unit.

    Args:
        figures: Of chosen rows (their indices, repeated as drawn); NaN where the rows do not define a figure.
        patients: (N,) whose row it is.
        draws: Bootstrap samples.
        seed: Same seed, same interval.

    Returns:
        Each figure on all rows with its interval; None where all rows do not define it.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(patients, return_inverse=True)
    order = np.argsort(group, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(group))[:-1])
    drawn = [figures(np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])) for _ in range(draws)]
    return {
        name: _estimate(value, np.array([one[name] for one in drawn]))
        for name, value in figures(np.arange(len(patients))).items()
    }


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate | None:
    if math.isnan(value):
        return None
    defined = drawn[~np.isnan(drawn)]
    low, high = np.quantile(defined, _OUTER) if len(defined) else (value, value)
    return Estimate(value=round(value, 4), low=round(float(low), 4), high=round(float(high), 4))


def exact_share(hits: int, of: int) -> Estimate:
    """A share with its exact 95 % interval (Clopper & Pearson 1934), which stays honest at none and at all.

    Raises:
        ValueError: there is nothing to take a share of.
    """
    if of < 1 or not 0 <= hits <= of:
        raise ValueError(f"{hits} of {of} is no share")
    low = beta.ppf(_OUTER[0], hits, of - hits + 1) if hits else 0.0
    high = beta.ppf(_OUTER[1], hits + 1, of - hits) if hits < of else 1.0
    return Estimate(value=round(hits / of, 4), low=round(float(low), 4), high=round(float(high), 4))
