"""Figures of the cases that share a trait: sex, age band, scanner, source."""

from __future__ import annotations

import numpy as np

from services.training.evaluation.judged import Judged
from services.training.evaluation.report import SubgroupFigures
from services.training.measures.enough import has_enough_patients


def subgroup_figures(judged: Judged, *, draws: int, seed: int) -> tuple[SubgroupFigures, ...]:
    """One entry for each value of each trait that enough patients have, where a trait has several such values."""
    found = []
    for trait in sorted({name for traits in judged.traits for name in traits}):
        values = np.array([traits.get(trait, "") for traits in judged.traits])
        told = [value for value in sorted(set(values) - {""}) if has_enough_patients(judged.patients[values == value])]
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
