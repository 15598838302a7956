"""What the capacity model and its simulation give, as JSON and as tables. Computed, not measured: research use only."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from bench.listener.results import Machine
from bench.query.cluster_model import GB, Assumptions, Layout
from bench.query.cluster_simulation import Latency
from bench.query.engine_results import Kind


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Size(_Kept):
    """One cluster: how large, how fast it fills, what it costs by the assumed prices."""

    dim: int
    layout: Layout
    ram_bytes_per_point: dict[str, float]
    disk_bytes_per_point: dict[str, float]
    ram_bytes: float
    """Of all copies."""
    disk_bytes: float
    """Of all copies, without what merges need for a while."""
    float32_nodes: int
    """Nodes, were the vectors in RAM as float32."""
    store_hours: float
    build_hours: float
    repair_hours: float
    price_per_month: float


class Tail(_Kept):
    """Times of one kind of search on one cluster."""

    dim: int
    kind: Kind
    measured_points: int
    measured_p50_ms: float
    measured_p99_ms: float
    exponent: float | None
    """Of the measured growth; None where it is not measured at two sizes."""
    segment_p50_ms: float
    """The measured median, carried over to a segment of this cluster."""
    rounds: int
    queries_per_s: float
    network_bytes_per_query: float
    healthy: Latency
    hedged: Latency
    one_node_down: Latency
    one_node_down_one_copy: Latency
    """The same shards without a second copy."""


class ClusterResults(_Kept):
    """Everything of one calculation."""

    format: int = 1
    notice: str = "computed from assumptions and one machine's benchmark, not measured; research use only"
    assumptions: Assumptions
    machine: Machine
    engine: str
    measured_at: str
    queries_simulated: int
    sizes: tuple[Size, ...]
    tails: tuple[Tail, ...]


def markdown(results: ClusterResults) -> str:
    """The tables."""
    return "\n".join(_lines(results))


def _lines(results: ClusterResults) -> Iterator[str]:
    assumed = results.assumptions
    yield (
        f"{assumed.points:,} frames. Computed, not measured: from assumptions and from {results.engine} on "
        f"{results.machine.cpu}, {results.machine.cores} cores. Research use only."
    )
    yield ""
    yield "| bytes of one copy of a frame | " + " | ".join(f"{dim}" for dim in _dims(results)) + " |"
    yield "|---|" + "---|" * len(_dims(results))
    by_dim = {size.dim: size for size in results.sizes}
    for name in next(iter(by_dim.values())).ram_bytes_per_point:
        yield _row(f"RAM: {name}", [size.ram_bytes_per_point[name] for size in by_dim.values()])
    yield _row("**RAM, all of it**", [sum(size.ram_bytes_per_point.values()) for size in by_dim.values()])
    yield _row("**disk, all of it**", [sum(size.disk_bytes_per_point.values()) for size in by_dim.values()])
    yield ""
    yield (
        f"| length | copies | RAM, TB | disk, TB | nodes ({assumed.node_cores} cores, {assumed.node_ram_gb:g} GB, "
        f"{assumed.node_disk_gb / 1e3:g} TB) | set by | with float32 in RAM | shards | frames a shard | stored in | "
        f"graphs in | a lost node in | {assumed.currency} a month, assumed |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for size in results.sizes:
        at = size.layout
        yield (
            f"| {size.dim} | {at.replicas} | {size.ram_bytes / GB / 1e3:.2f} | {size.disk_bytes / GB / 1e3:.1f} "
            f"| {at.nodes} | {at.limited_by} | {size.float32_nodes} | {at.shards} | {at.points_per_shard / 1e6:.1f} M "
            f"| {size.store_hours:.1f} h | {size.build_hours:.1f} h | {size.repair_hours:.1f} h "
            f"| {size.price_per_month:,.0f} |"
        )
    yield ""
    yield (
        f"Searches, {assumed.replicas} copies, {results.queries_simulated:,} simulated queries each; ms p50 / p99. "
        f"Prices are assumptions of {assumed.priced_at}."
    )
    yield ""
    yield (
        "| length | search | measured at | n^x | a segment | fan-outs | healthy | second copy asked late "
        "| a node down | a node down, one copy: answered | queries/s | MB a query |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for tail in results.tails:
        growth = "not known" if tail.exponent is None else f"{tail.exponent:.2f}"
        yield (
            f"| {tail.dim} | {tail.kind} | {tail.measured_points / 1e6:g} M: {tail.measured_p50_ms:.1f} / "
            f"{tail.measured_p99_ms:.1f} | {growth} | {tail.segment_p50_ms:.1f} | {tail.rounds} | {_of(tail.healthy)} "
            f"| {_of(tail.hedged)} | {_of(tail.one_node_down)} | {100 * tail.one_node_down_one_copy.answered:.0f} % "
            f"| {tail.queries_per_s:.0f} | {tail.network_bytes_per_query / 1e6:.2f} |"
        )


def _dims(results: ClusterResults) -> list[int]:
    return list(dict.fromkeys(size.dim for size in results.sizes))


def _row(title: str, values: list[float]) -> str:
    return f"| {title} | " + " | ".join(f"{value:.0f}" for value in values) + " |"


def _of(latency: Latency) -> str:
    return f"{latency.p50_ms:.0f} / {latency.p99_ms:.0f}"
