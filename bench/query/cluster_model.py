"""How large a Qdrant cluster must be: formulas only, each with its source. Nothing here was measured on a cluster.

    bytes of a point ─▶ RAM and disk of all copies ─▶ nodes (one more than needed) ─▶ shards ─▶ time, network, cost

RAM per point follows Qdrant's own account of 400 million vectors on one machine ("Large-Scale Search", its tutorial):
quantised vectors, 2 m links of 4 bytes at the graph's lowest level, ids and versions. GB and TB are powers of ten.
"""

from __future__ import annotations

import math
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

GB: Final = 1e9
_LINK_BYTES: Final = 4
_VERSION_BYTES: Final = 4
_INTERNAL_ID_BYTES: Final = 4
_EXTERNAL_ID_BYTES: Final = 16
"""Of the way from internal to external ids, where numbers take as much as UUIDs."""
_QUANTISED_EXTRA_BYTES: Final = 4
"""A float32 beside each int8 vector, which makes its dot products comparable."""


class Assumptions(BaseModel):
    """What is taken for granted. Change any by `--assume name=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: PositiveInt = Field(1_000_000_000, description="Frames that are indexed.")
    replicas: PositiveInt = Field(2, description="Copies of each shard.")
    bits_per_value: PositiveFloat = Field(8, description="Of a vector in RAM: 8 int8, 32 float32.")
    graph_links: PositiveInt = Field(16, description="HNSW m, the service's own setting.")
    graph_overhead: float = Field(1.2, ge=1, description="Upper levels and what is aligned (Qdrant's sizing guide).")
    id_bytes: PositiveInt = Field(16, description="A point's id: a UUID.")
    payload_bytes: PositiveInt = Field(490, description="A frame's payload as JSON; by bench.query.shard_bytes.")
    payload_index_bytes: NonNegativeInt = Field(
        610,
        description="All payload indexes, a point, in RAM; as large as the files that bench.query.shard_bytes finds.",
    )
    payload_factor: float = Field(1.5, ge=1, description="Stored payload beside its JSON (Qdrant's capacity planning).")
    ram_share: float = Field(0.8, gt=0, le=1, description="Of a node's RAM; the rest is page cache, merges, system.")
    disk_share: float = Field(0.8, gt=0, le=1, description="Of a node's disk.")
    temporary_share: NonNegativeFloat = Field(0.5, description="Disk for merges (Qdrant's capacity planning).")
    shards_per_node: PositiveInt = Field(
        2, description="Copies of shards on a node (Qdrant's sizing guide: 2 or more)."
    )
    segments_per_shard: PositiveInt = Field(2, description="Graphs in a shard, searched at the same time.")
    wal_gb_per_shard: NonNegativeFloat = Field(0.1, description="Write-ahead log of a copy.")
    node_cores: PositiveInt = Field(16, description="Cores of a node, as fast as the measured ones.")
    node_ram_gb: PositiveFloat = Field(128, description="RAM of a node.")
    node_disk_gb: PositiveFloat = Field(7_680, description="Local NVMe of a node.")
    node_network_gbit: PositiveFloat = Field(10, description="Network of a node.")
    least_nodes: PositiveInt = Field(3, description="Consensus outlives a node only with three.")
    spare_nodes: NonNegativeInt = Field(1, description="Nodes that may be lost and the rest still holds every copy.")
    busy_share: float = Field(0.6, gt=0, le=1, description="Of all cores, busy with searches; above it they queue.")
    write_share: float = Field(
        0.5, gt=0, le=1, description="Of a shard's measured upserts/s that is left in a cluster."
    )
    network_ms: NonNegativeFloat = Field(0.5, description="There and back within the cluster, on average.")
    limit: PositiveInt = Field(10, description="Neighbours asked for.")
    oversampling: float = Field(2, ge=1, description="Originals read from disk to rank anew, times the limit.")
    cold_read_ms: NonNegativeFloat = Field(0.1, description="One random read of an original that no cache holds.")
    slow_node_share: float = Field(0.05, ge=0, le=1, description="Nodes that merge segments at a given moment.")
    slow_node_factor: float = Field(3, ge=1, description="How much slower such a node answers.")
    hedge_quantile: float = Field(
        0.95, gt=0, lt=1, description="A second copy is asked after this quantile of a shard's time (read_fan_out)."
    )
    node_price_per_month: NonNegativeFloat = Field(1_000, description="Assumed, not an offer.")
    snapshot_price_per_tb_month: NonNegativeFloat = Field(20, description="Object storage; assumed, not an offer.")
    currency: str = Field("EUR", description="Of the prices.")
    priced_at: str = Field("2026-11", description="When the prices were assumed.")


class Layout(BaseModel):
    """Nodes and what lies on them."""

    model_config = ConfigDict(frozen=True)

    nodes: PositiveInt
    shards: PositiveInt
    replicas: PositiveInt
    points_per_shard: PositiveFloat
    limited_by: str


def ram_parts(assumed: Assumptions, dim: int) -> dict[str, float]:
    """Bytes of RAM of one copy of one point."""
    return {
        "vectors": dim * assumed.bits_per_value / 8 + _QUANTISED_EXTRA_BYTES,
        "graph": 2 * assumed.graph_links * _LINK_BYTES * assumed.graph_overhead,
        # Version; internal to external id; external to internal id.
        "ids": _VERSION_BYTES + _EXTERNAL_ID_BYTES + assumed.id_bytes + _INTERNAL_ID_BYTES,
        "payload indexes": assumed.payload_index_bytes,
    }


def disk_parts(assumed: Assumptions, dim: int) -> dict[str, float]:
    """Bytes on disk of one copy of one point: everything in RAM is kept there as well."""
    return {
        "originals": 4.0 * dim,
        **ram_parts(assumed, dim),
        "payload": assumed.payload_bytes * assumed.payload_factor,
    }


def layout(assumed: Assumptions, dim: int) -> Layout:
    """The smallest cluster that holds every copy, also after losing the spare nodes."""
    copies = assumed.points * assumed.replicas
    ram = copies * sum(ram_parts(assumed, dim).values())
    disk = copies * sum(disk_parts(assumed, dim).values()) * (1 + assumed.temporary_share)
    # A snapshot is written beside the shard before it is sent away; one shard at a time.
    disk_each = assumed.node_disk_gb * GB * assumed.disk_share - assumed.wal_gb_per_shard * GB * assumed.shards_per_node
    disk_each /= 1 + 1 / assumed.shards_per_node
    wanted = {
        "RAM": math.ceil(ram / (assumed.node_ram_gb * GB * assumed.ram_share)),
        "disk": math.ceil(disk / disk_each),
        "copies": max(assumed.replicas, assumed.least_nodes if assumed.replicas > 1 else 1),
    }
    limited_by = max(wanted, key=lambda name: wanted[name])
    nodes = wanted[limited_by] + assumed.spare_nodes
    shards = math.ceil(nodes * assumed.shards_per_node / assumed.replicas)
    return Layout(
        nodes=nodes,
        shards=shards,
        replicas=assumed.replicas,
        points_per_shard=assumed.points / shards,
        limited_by=limited_by,
    )


def slower(points: float, measured_at: float, exponent: float) -> float:
    """How much longer a search of `points` takes than one of `measured_at`, at least by the logarithm of the size.

    A graph's search is expected to grow by the logarithm (Malkov, Yashunin: arXiv 1603.09320, section 4.2.1); noise
    must not make it grow less.
    """
    by_logarithm = math.log(points) / math.log(measured_at)
    by_power = (points / measured_at) ** exponent if math.isfinite(exponent) else 0.0
    return max(by_logarithm, by_power)


def queries_per_second(assumed: Assumptions, at: Layout, segment_ms: float, rounds: int) -> float:
    """What the cores can take: each query searches every segment of every shard once a round."""
    core_s = rounds * at.shards * assumed.segments_per_shard * segment_ms / 1e3
    return at.nodes * assumed.node_cores * assumed.busy_share / core_s


def fill_hours(
    assumed: Assumptions, at: Layout, *, upserts_per_s: float, build_core_s: float, measured_at: float
) -> tuple[float, float]:
    """Hours to store every point, and then to build the graphs of every copy once.

    Args:
        assumed: What is taken for granted.
        at: The cluster.
        upserts_per_s: Of one shard, measured.
        build_core_s: Core seconds that one graph of `measured_at` points took.
        measured_at: Points.
    """
    store_s = assumed.points / (at.shards * upserts_per_s * assumed.write_share)
    segment = at.points_per_shard / assumed.segments_per_shard
    # Each insertion is a search: n log n.
    core_s_per_point = build_core_s / measured_at * math.log(segment) / math.log(measured_at)
    copies_per_node = assumed.points * assumed.replicas / at.nodes
    return store_s / 3600, copies_per_node * core_s_per_point / assumed.node_cores / 3600


def network_bytes_per_query(assumed: Assumptions, at: Layout, dim: int, rounds: int) -> float:
    """The vector goes to every shard, each answers with as many payloads as are asked for."""
    return rounds * at.shards * (4.0 * dim + assumed.limit * (assumed.payload_bytes + assumed.id_bytes + 4))


def repair_hours(assumed: Assumptions, at: Layout, dim: int) -> float:
    """To copy what lay on a lost node, by half of one node's network."""
    lost = assumed.points * assumed.replicas / at.nodes * sum(disk_parts(assumed, dim).values())
    return lost / (assumed.node_network_gbit * 1e9 / 8 * 0.5) / 3600


def price_per_month(assumed: Assumptions, at: Layout, dim: int) -> float:
    """Nodes, and one snapshot of one copy of everything."""
    snapshot_tb = assumed.points * sum(disk_parts(assumed, dim).values()) / 1e12
    return at.nodes * assumed.node_price_per_month + snapshot_tb * assumed.snapshot_price_per_tb_month
