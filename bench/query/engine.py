"""`python -m bench.query.engine`: the embedded engine beside exact numpy on the same vectors, in one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray

from bench.listener import machine
from bench.query.engine_data import TOP, Frames, frames
from bench.query.engine_plot import draw
from bench.query.engine_results import EnginePlan, EngineResults, EngineRun, Kind, Search, keep, markdown
from bench.query.growth import merged
from shared.errors import SimilisError
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_rebuild import build_command, drop_old
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.port import Filter, Hit

CHECKOUT: Final = Path(__file__).resolve().parents[2]
QUICK: Final = EnginePlan(sizes=(3_000,), dims=(64,), queries=20, flush_every=1_000, flat_below_points=1_000)
KINDS: Final[tuple[Kind, ...]] = ("none", "filtered", "grouped")
_TURN: Final = 20

Progress = Callable[[str], None]


def main(
    sizes: Annotated[str | None, typer.Option(help="Points, such as 10000,100000.")] = None,
    dims: Annotated[str | None, typer.Option(help="Lengths of vectors, such as 384,768.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Queries of each kind.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Whether it works, not how fast.")] = False,
    json: Annotated[Path | None, typer.Option(help="Where to keep every run.")] = None,
    from_json: Annotated[
        list[Path] | None, typer.Option(help="Measure nothing: show what was kept by --json; several are merged.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw times by number of points, PNG or SVG.")] = None,
) -> None:
    """Measure the embedded engine: searches without a filter, filtered and grouped by study, recall, upserts."""
    if from_json:
        kept = merged([EngineResults.model_validate_json(path.read_text()) for path in from_json])
        if plot is not None:
            draw(kept, plot)
        print(markdown(kept))
        return
    given = {
        "sizes": sizes and [int(size) for size in sizes.split(",")],
        "dims": dims and [int(dim) for dim in dims.split(",")],
        "queries": queries,
    }
    plan = EnginePlan.model_validate(
        (QUICK if quick else EnginePlan()).model_dump() | {name: value for name, value in given.items() if value}
    )
    results = measure(plan, progress=lambda text: print(text, file=sys.stderr, flush=True))
    if json is not None:
        keep(json, results)
    if plot is not None:
        draw(results, plot)
    print(markdown(results))


def measure(plan: EnginePlan, *, progress: Progress) -> EngineResults:
    """Every size with every length."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="similis-bench-") as work:
        for points in plan.sizes:
            for dim in plan.dims:
                progress(f"{points} x {dim}")
                runs.append(_run(plan, Path(work) / f"{points}-{dim}", points, dim, progress))
        described = machine.describe(Path(work))
    commit, is_modified = machine.commit(CHECKOUT)
    return EngineResults(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        commit_is_modified=is_modified,
        machine=described,
        engine=f"qdrant-edge-py {version('qdrant-edge-py')}",
        plan=plan,
        runs=tuple(runs),
    )


def _run(plan: EnginePlan, folder: Path, points: int, dim: int, progress: Progress) -> EngineRun:
    data = frames(points, dim, queries=plan.queries)
    engine = EdgeEngine(folder, dim=dim, settings=IndexSection(flat_below_points=plan.flat_below_points))
    try:
        upsert_s = 0.0
        for start in range(0, points, plan.flush_every):
            batch = data.points(start, start + plan.flush_every)
            started = time.perf_counter()
            engine.upsert(batch)
            upsert_s += time.perf_counter() - started
        build_s, swap_s = _build(engine)
        progress(f"  {points / upsert_s:.0f} upserts/s, graph in {build_s:.1f} s")
        return EngineRun(
            points=points,
            dim=dim,
            flat_points=engine.flat_points(),
            upserts_per_s=points / upsert_s,
            build_s=build_s,
            swap_s=swap_s,
            searches=tuple(_searches(engine, data, kind) for kind in KINDS),
        )
    finally:
        engine.close()


def _build(engine: EdgeEngine) -> tuple[float, float]:
    if not engine.is_rebuild_due():
        return 0.0, 0.0
    started = time.perf_counter()
    draft = engine.begin_rebuild()
    copied = time.perf_counter()
    subprocess.run(build_command(draft), check=True, cwd=CHECKOUT)
    built = time.perf_counter()
    engine.finish_rebuild()
    swapped = time.perf_counter()
    drop_old(engine.folder)
    return swapped - started, max(copied - started, swapped - built)


def _searches(engine: EdgeEngine, data: Frames, kind: Kind) -> Search:
    """Engine and numpy in turns of `_TURN` queries: by single queries numpy's scan would empty the engine's caches."""
    engine_s, numpy_s, found = [], [], 0
    for first in range(0, len(data.queries), _TURN):
        turn = range(first, min(first + _TURN, len(data.queries)))
        ours, exact = [], []
        for query in turn:
            started = time.perf_counter()
            ours.append(_by_engine(engine, data, kind, query))
            engine_s.append(time.perf_counter() - started)
        for query in turn:
            started = time.perf_counter()
            exact.append(_by_numpy(data, kind, query))
            numpy_s.append(time.perf_counter() - started)
        found += sum(
            len(_numbers(hits, kind) & {int(number) for number in rows}) for hits, rows in zip(ours, exact, strict=True)
        )
    return Search(
        kind=kind,
        engine_p50_ms=1e3 * float(np.percentile(engine_s, 50)),
        engine_p99_ms=1e3 * float(np.percentile(engine_s, 99)),
        numpy_p50_ms=1e3 * float(np.percentile(numpy_s, 50)),
        recall_at_10=found / (TOP * len(data.queries)),
    )


def _by_engine(engine: EdgeEngine, data: Frames, kind: Kind, query: int) -> list[Hit]:
    vector = data.queries[query]
    if kind == "grouped":
        return engine.search_studies(vector, limit=TOP, where=data.where(query))
    return engine.search(vector, limit=TOP, where=data.where(query) if kind == "filtered" else Filter())


def _by_numpy(data: Frames, kind: Kind, query: int) -> NDArray[np.int64]:
    passing = None if kind == "none" else data.passing(query)
    return data.exact_studies(query, passing) if kind == "grouped" else data.exact(query, passing)


def _numbers(hits: list[Hit], kind: Kind) -> set[int]:
    if kind == "grouped":
        return {int(hit.payload.study_instance_uid.rpartition(".")[2]) for hit in hits}
    return {hit.id.int - 1 for hit in hits}


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.query.engine: {error}", file=sys.stderr)
        sys.exit(1)
