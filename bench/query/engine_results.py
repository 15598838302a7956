"""What is measured of the engine and kept, as JSON. No path or host name is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bench.listener.results import Machine

Kind = Literal["none", "filtered", "grouped"]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class EnginePlan(_Kept):
    """How much is done."""

    sizes: tuple[PositiveInt, ...] = (10_000, 100_000)
    dims: tuple[PositiveInt, ...] = (384, 768)
    queries: PositiveInt = 200
    flush_every: PositiveInt = 5_000
    flat_below_points: PositiveInt = 50_000


class Search(_Kept):
    """Searches of one kind, engine and numpy in turns of some queries each."""

    kind: Kind
    engine_p50_ms: PositiveFloat
    engine_p99_ms: PositiveFloat
    numpy_p50_ms: PositiveFloat
    recall_at_10: NonNegativeFloat


class EngineRun(_Kept):
    """One collection."""

    points: PositiveInt
    dim: PositiveInt
    flat_points: NonNegativeInt
    """Points that no graph held when searches were measured."""
    upserts_per_s: PositiveFloat
    build_s: NonNegativeFloat
    """In another process; 0 where no graph was due."""
    swap_s: NonNegativeFloat
    """The longest that requests waited for the graph."""
    searches: tuple[Search, ...]


class EngineResults(_Kept):
    """Everything of one benchmark."""

    format: int = 1
    made_at: str
    commit: str | None
    commit_is_modified: bool
    machine: Machine
    engine: str
    plan: EnginePlan
    runs: tuple[EngineRun, ...]


def keep(path: Path, results: BaseModel) -> None:
    """Write at once: an interrupt leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(results.model_dump_json(indent=1) + "\n")
    os.replace(unfinished, path)


def markdown(results: EngineResults) -> str:
    """The table."""
    return "\n".join(_lines(results))


def _lines(results: EngineResults) -> Iterator[str]:
    yield (
        f"Top-10 of clustered synthetic vectors with payload, {results.engine} in this process beside exact numpy, "
        f"{results.plan.queries} queries each. {results.machine.cpu}, {results.machine.cores} cores, {results.made_at}"
    )
    yield ""
    yield "| n x dim | search | p50 ms | p99 ms | numpy p50 ms | numpy / engine | recall@10 | upserts/s | graph built |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for run in results.runs:
        for one in run.searches:
            graph = f"{run.build_s:.1f} s, waited {run.swap_s:.2f} s" if run.build_s else "flat"
            yield (
                f"| {run.points} x {run.dim} | {one.kind} | {one.engine_p50_ms:.2f} | {one.engine_p99_ms:.2f} "
                f"| {one.numpy_p50_ms:.2f} | {one.numpy_p50_ms / one.engine_p50_ms:.1f} | {one.recall_at_10:.3f} "
                f"| {run.upserts_per_s:.0f} | {graph} |"
            )
