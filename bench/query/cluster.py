"""`python -m bench.query.cluster`: a billion frames on a Qdrant cluster, on paper and by simulation.

    engine benchmark (JSON) ─▶ time of a segment ─┐
    assumptions ─▶ bytes, nodes, shards ──────────┴─▶ simulated fan-outs ─▶ tables and JSON

Nothing is measured here; docs/scale.md says what the figures rest on. Research use only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from pydantic import ValidationError

from bench.query import cluster_model as model
from bench.query.cluster_model import Assumptions
from bench.query.cluster_results import ClusterResults, Size, Tail, markdown
from bench.query.cluster_simulation import SegmentTime, simulate
from bench.query.engine_results import EngineResults, EngineRun, Kind, keep
from bench.query.growth import curve, exponent, merged, search_of
from shared.errors import SimilisError

KINDS: Final[tuple[Kind, ...]] = ("none", "filtered", "grouped")
QUERIES: Final = 20_000


def main(
    from_json: Annotated[list[Path], typer.Option(help="What bench.query.engine kept; several are merged.")],
    assume: Annotated[
        list[str] | None, typer.Option(help="name=value of an assumption, such as points=100000000.")
    ] = None,
    replicas: Annotated[str, typer.Option(help="Numbers of copies to compare in the table of sizes.")] = "1,2,3",
    queries: Annotated[int, typer.Option(min=100, help="Simulated queries of each kind.")] = QUERIES,
    json: Annotated[Path | None, typer.Option(help="Where to keep the results.")] = None,
) -> None:
    """Size a cluster, simulate its searches, print tables."""
    measured = merged([EngineResults.model_validate_json(path.read_text()) for path in from_json])
    results = calculate(
        measured, assumptions(assume or ()), copies=[int(part) for part in replicas.split(",")], queries=queries
    )
    if json is not None:
        keep(json, results)
    print(markdown(results))


def assumptions(given: Sequence[str]) -> Assumptions:
    """The defaults, changed by `name=value` pairs.

    Raises:
        SimilisError: one is no assumption, or its value cannot be.
    """
    pairs = [one.partition("=") for one in given]
    try:
        return Assumptions.model_validate({name.strip(): value for name, _, value in pairs}, strict=False)
    except ValidationError as error:
        raise SimilisError(f"not an assumption: {error}") from error


def calculate(
    measured: EngineResults, assumed: Assumptions, *, copies: Sequence[int] = (1, 2, 3), queries: int = QUERIES
) -> ClusterResults:
    """Every length of vectors that was measured: sizes by number of copies, times by kind of search.

    Raises:
        SimilisError: no graph was measured.
    """
    sizes, tails = [], []
    for dim in measured.plan.dims:
        graphs = [run for run in measured.runs if run.dim == dim and run.build_s]
        if not graphs:
            raise SimilisError(f"the benchmark built no graph of length {dim}")
        sizes += [_size(assumed.model_copy(update={"replicas": count}), dim, measured, graphs[-1]) for count in copies]
        tails += [_tail(assumed, dim, kind, measured, queries) for kind in KINDS]
    return ClusterResults(
        assumptions=assumed,
        machine=measured.machine,
        engine=measured.engine,
        measured_at=measured.made_at,
        queries_simulated=queries,
        sizes=tuple(sizes),
        tails=tuple(tails),
    )


def _size(assumed: Assumptions, dim: int, measured: EngineResults, largest: EngineRun) -> Size:
    at = model.layout(assumed, dim)
    ram, disk = model.ram_parts(assumed, dim), model.disk_parts(assumed, dim)
    store_h, build_h = model.fill_hours(
        assumed,
        at,
        upserts_per_s=largest.upserts_per_s,
        build_core_s=largest.build_s * measured.machine.cores,
        measured_at=largest.points,
    )
    copies = assumed.points * assumed.replicas
    return Size(
        dim=dim,
        layout=at,
        ram_bytes_per_point=ram,
        disk_bytes_per_point=disk,
        ram_bytes=copies * sum(ram.values()),
        disk_bytes=copies * sum(disk.values()),
        float32_nodes=model.layout(assumed.model_copy(update={"bits_per_value": 32}), dim).nodes,
        store_hours=store_h,
        build_hours=build_h,
        repair_hours=model.repair_hours(assumed, at, dim),
        price_per_month=model.price_per_month(assumed, at, dim),
    )


def _tail(assumed: Assumptions, dim: int, kind: Kind, measured: EngineResults, queries: int) -> Tail:
    """Times by the largest measured graph. A search by study is as many filtered fan-outs as it took longer."""
    graphs = [run for run in measured.runs if run.build_s]
    largest = [run for run in graphs if run.dim == dim][-1]
    base: Kind = "filtered" if kind == "grouped" else kind
    found, own = search_of(largest, base), search_of(largest, kind)
    rounds = max(1, round(own.engine_p50_ms / found.engine_p50_ms)) if kind == "grouped" else 1
    # A length that was measured at one size only grows as the others do.
    known = {length: exponent(*curve(graphs, length, base, "engine_p50_ms")) for length in measured.plan.dims}
    growth = known[dim] if math.isfinite(known[dim]) else float(np.nanmax([*known.values(), -math.inf]))
    at = model.layout(assumed, dim)
    factor = model.slower(at.points_per_shard / assumed.segments_per_shard, largest.points, growth)
    segment = SegmentTime(found.engine_p50_ms, found.engine_p99_ms).scaled(factor)

    one_copy = at.model_copy(update={"replicas": 1})
    return Tail(
        dim=dim,
        kind=kind,
        measured_points=largest.points,
        measured_p50_ms=found.engine_p50_ms,
        measured_p99_ms=found.engine_p99_ms,
        exponent=growth if math.isfinite(growth) else None,
        segment_p50_ms=segment.p50_ms,
        rounds=rounds,
        queries_per_s=model.queries_per_second(assumed, at, segment.p50_ms, rounds),
        network_bytes_per_query=model.network_bytes_per_query(assumed, at, dim, rounds),
        healthy=simulate(assumed, at, segment, rounds=rounds, queries=queries),
        hedged=simulate(assumed, at, segment, rounds=rounds, queries=queries, hedged=True),
        one_node_down=simulate(assumed, at, segment, rounds=rounds, queries=queries, nodes_down=1),
        one_node_down_one_copy=simulate(assumed, one_copy, segment, rounds=rounds, queries=queries, nodes_down=1),
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.query.cluster: {error}", file=sys.stderr)
        sys.exit(1)
