"""Figures of the cases that share a trait: sex, age band, scanner, source."""

from __future__ import annotations

from typing import Final

import numpy as np

from services.training.evaluation_report import SubgroupFigures
from services.training.judged import Judged

LEAST_CASES: Final = 5  # fewer say nothing, and may point at a person


def subgroup_figures(judged: Judged, *, draws: int, seed: int) -> tuple[SubgroupFigures, ...]:
    """One entry for each value of each trait that enough cases have, where a trait has several such values."""
    found = []
    for trait in sorted({name for traits in judged.traits for name in traits}):
        values = np.array([traits.get(trait, "") for traits in judged.traits])
        counts = {value: int((values == value).sum()) for value in sorted(set(values) - {""})}
        told = [value for value, count in counts.items() if count >= LEAST_CASES]
        for value in told if len(told) > 1 else ():
            metrics = judged.only(values == value).measure(0.0, draws=draws, seed=seed)
            found.append(
                SubgroupFigures(
                    trait=trait,
                    value=value,
                    n=metrics.n,
                    patients=metrics.patients or metrics.n,
                    accuracy=metrics.accuracy,
                    auroc_finding=metrics.auroc_finding,
                    ece=metrics.ece,
                )
            )
    return tuple(found)
