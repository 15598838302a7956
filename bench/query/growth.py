"""How times grow with the number of points: a power of it, by least squares on logarithms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from bench.query.engine_results import EngineResults, EngineRun, Kind, Search
from shared.errors import SimilisError

Figure = Literal["engine_p50_ms", "engine_p99_ms", "numpy_p50_ms"]


def merged(results: Sequence[EngineResults]) -> EngineResults:
    """Several benchmarks of one engine on one machine as one; of a size that was measured twice the later file's.

    Raises:
        SimilisError: there is none, or they are of different machines or engines.
    """
    if not results:
        raise SimilisError("no results are given")
    for one, other in pairwise(results):
        if (one.machine.cpu, one.machine.cores, one.engine) != (other.machine.cpu, other.machine.cores, other.engine):
            raise SimilisError("results of different machines or engines are no curve")
    runs = {(run.points, run.dim): run for one in results for run in one.runs}
    last = results[-1]
    plan = last.plan.model_copy(
        update={"sizes": tuple(sorted({size for size, _ in runs})), "dims": tuple(sorted({dim for _, dim in runs}))}
    )
    return last.model_copy(update={"plan": plan, "runs": tuple(runs[key] for key in sorted(runs))})


def exponent(points: Sequence[float], values: Sequence[float]) -> float:
    """The g of values = c points^g that fits best; 1 is linear. NaN with fewer than two sizes."""
    if len(set(points)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(points), np.log(values), 1)[0])


def curve(runs: Iterable[EngineRun], dim: int, kind: Kind, figure: Figure) -> tuple[list[int], list[float]]:
    """Sizes, ascending, and a figure of each, in milliseconds."""
    found = sorted((run.points, getattr(search_of(run, kind), figure)) for run in runs if run.dim == dim)
    return [points for points, _ in found], [value for _, value in found]


def search_of(run: EngineRun, kind: Kind) -> Search:
    """What was measured of one kind."""
    return next(search for search in run.searches if search.kind == kind)
