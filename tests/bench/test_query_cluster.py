"""The capacity model of a cluster: its formulas against a published measurement, its simulation against theory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.listener.results import Machine
from bench.query import facets
from bench.query.cluster import assumptions, calculate
from bench.query.cluster_model import Assumptions, Layout, layout, ram_parts, slower
from bench.query.cluster_results import markdown
from bench.query.cluster_simulation import SegmentTime, simulate
from bench.query.engine_plot import draw
from bench.query.engine_results import EnginePlan, EngineResults, EngineRun, Search
from bench.query.growth import exponent, merged
from bench.query.shard_bytes import measure
from shared.errors import SimilisError
from shared.vector_index.port import INTEGER_FIELDS, KEYWORD_FIELDS

QUIET = Assumptions(slow_node_share=0, cold_read_ms=0, network_ms=0, segments_per_shard=1)
MACHINE = Machine(cpu="a CPU", cores=2, memory_bytes=1, kernel="k", file_system="f", python="3")


def measured(*sizes: int, cpu: str = "a CPU", p50_ms: float = 1.0) -> EngineResults:
    """A benchmark whose times grow by the square root of the size."""
    runs = tuple(
        EngineRun(
            points=points,
            dim=384,
            flat_points=0,
            upserts_per_s=8_000,
            build_s=30 * points / 100_000,
            swap_s=1,
            searches=tuple(
                Search(
                    kind=kind,
                    engine_p50_ms=times * p50_ms * math.sqrt(points / 100_000),
                    engine_p99_ms=2 * times * p50_ms * math.sqrt(points / 100_000),
                    numpy_p50_ms=5 * points / 100_000,
                    recall_at_10=1,
                )
                for kind, times in (("none", 1), ("filtered", 1), ("grouped", 3))
            ),
        )
        for points in sizes
    )
    return EngineResults(
        made_at="2026-01-01",
        commit=None,
        commit_is_modified=False,
        machine=MACHINE.model_copy(update={"cpu": cpu}),
        engine="an engine",
        plan=EnginePlan(sizes=sizes, dims=(384,)),
        runs=runs,
    )


def test_ram_is_what_qdrant_observed_of_400_million_binary_vectors():
    # Its tutorial "Large-Scale Search": 512 bits, m 6, numbers as ids, no payload index: 39.27 + 14.54 GiB.
    laion = Assumptions(bits_per_value=1, graph_links=6, graph_overhead=1, id_bytes=8, payload_index_bytes=0)
    assert 400e6 * sum(ram_parts(laion, 512).values()) / 2**30 == pytest.approx(39.27 + 14.54, rel=0.03)


@settings(deadline=None)
@given(
    points=st.integers(10**6, 10**10),
    dim=st.integers(64, 2048),
    links=st.integers(4, 64),
    replicas=st.integers(1, 3),
    field=st.sampled_from(["points", "replicas", "graph_links", "bits_per_value", "payload_index_bytes"]),
)
def test_more_of_anything_never_needs_less(points: int, dim: int, links: int, replicas: int, field: str):
    less = Assumptions(points=points, graph_links=links, replicas=replicas)
    more = less.model_copy(update={field: 2 * getattr(less, field)})
    assert sum(ram_parts(more, dim).values()) >= sum(ram_parts(less, dim).values())
    assert layout(more, dim).nodes >= layout(less, dim).nodes
    assert layout(less, dim + 64).nodes >= layout(less, dim).nodes


@settings(deadline=None)
@given(points=st.integers(10**6, 10**10), dim=st.integers(64, 2048), replicas=st.integers(1, 3))
def test_without_the_spare_node_every_copy_still_fits_into_ram(points: int, dim: int, replicas: int):
    assumed = Assumptions(points=points, replicas=replicas)
    at = layout(assumed, dim)
    needed = points * replicas * sum(ram_parts(assumed, dim).values())
    assert needed <= (at.nodes - 1) * assumed.node_ram_gb * 1e9 * assumed.ram_share
    assert at.nodes > replicas
    assert at.shards * at.points_per_shard == pytest.approx(points)


def test_a_query_takes_what_the_slowest_of_its_shards_takes():
    time, shards = SegmentTime(4.0, 12.0), 40
    at = Layout(nodes=20, shards=shards, replicas=1, points_per_shard=1, limited_by="RAM")
    found = simulate(QUIET, at, time, queries=8_000)
    # The median of the greatest of S independent times is the quantile .5^(1/S) of one.
    alone = np.random.default_rng(5).lognormal(math.log(4), time.sigma, 2_000_000)
    assert found.p50_ms == pytest.approx(np.quantile(alone, 0.5 ** (1 / shards)), rel=0.02)
    assert simulate(QUIET, at, SegmentTime(4.0, 4.0), rounds=3, queries=100).p99_ms == pytest.approx(12.0)


@settings(max_examples=15, deadline=None)
@given(
    nodes=st.integers(4, 12),
    shards=st.integers(2, 24),
    spread=st.floats(1.0, 6.0),
    down=st.integers(0, 2),
    hedged=st.booleans(),
    seed=st.integers(0, 99),
)
def test_more_copies_or_a_second_try_never_make_a_tail_longer(
    nodes: int, shards: int, spread: float, down: int, hedged: bool, seed: int
):
    time, assumed = SegmentTime(3.0, 3.0 * spread), Assumptions()

    def found(replicas: int, hedged: bool):
        at = Layout(nodes=nodes, shards=shards, replicas=replicas, points_per_shard=1, limited_by="RAM")
        return simulate(assumed, at, time, nodes_down=down, hedged=hedged, queries=300, seed=seed)

    for fewer in (1, 2):
        less, more = found(fewer, hedged), found(fewer + 1, hedged)
        assert more.p50_ms <= less.p50_ms
        assert more.p99_ms <= less.p99_ms
        assert more.answered >= less.answered
    assert found(2, True).p99_ms <= found(2, False).p99_ms
    assert found(3, hedged).answered == 1, "two nodes down leave one copy of three"


def test_one_copy_on_lost_nodes_leaves_queries_unanswered():
    at = Layout(nodes=10, shards=10, replicas=1, points_per_shard=1, limited_by="RAM")
    lost = simulate(QUIET, at, SegmentTime(1, 2), nodes_down=1, queries=200)
    assert (lost.answered, lost.p50_ms) == (0, math.inf)


def test_times_grow_by_the_measured_power_but_never_less_than_by_the_logarithm():
    assert slower(4e6, 1e6, 0.5) == pytest.approx(2)
    assert slower(1e8, 1e6, -0.3) == slower(1e8, 1e6, math.nan) == pytest.approx(8 / 6)


def test_a_power_law_has_its_exponent_and_files_of_one_machine_merge():
    assert exponent([1e4, 1e5, 1e6], [2.0, 2.0 * 10**0.3, 2.0 * 10**0.6]) == pytest.approx(0.3)
    assert math.isnan(exponent([1e4], [2.0]))
    both = merged([measured(100_000, 10_000), measured(1_000_000, 100_000, p50_ms=7)])
    assert both.plan.sizes == (10_000, 100_000, 1_000_000)
    assert [run.searches[0].engine_p50_ms for run in both.runs][1] == 7, "the later file's"
    with pytest.raises(SimilisError, match="different machines"):
        merged([measured(10_000), measured(100_000, cpu="another")])


def test_a_calculation_carries_the_measured_growth_and_counts_the_rounds_of_grouping(tmp_path: Path):
    results = calculate(measured(100_000, 1_000_000), Assumptions(points=50_000_000), copies=(1, 2), queries=200)
    plain, _, grouped = results.tails
    assert plain.exponent == pytest.approx(0.5)
    segment = 25_000_000 / 2 / results.sizes[1].layout.shards * 2
    assert plain.segment_p50_ms == pytest.approx(math.sqrt(10) * math.sqrt(max(1, segment / 1e6)), rel=0.05)
    assert (plain.rounds, grouped.rounds) == (1, 3)
    assert grouped.healthy.p50_ms > 2 * plain.healthy.p50_ms
    assert results.sizes[1].ram_bytes == 2 * results.sizes[0].ram_bytes
    text = markdown(results)
    assert "Computed, not measured" in text
    assert "Research use only" in text
    draw(measured(10_000, 100_000, 1_000_000), tmp_path / "engine.png")
    assert (tmp_path / "engine.png").read_bytes().startswith(b"\x89PNG")


def test_assumptions_are_named_and_checked():
    assert assumptions(["points=5000", "currency=CHF"]) == Assumptions(points=5_000, currency="CHF")
    for wrong in ("pionts=5", "points=none", "points"):
        with pytest.raises(SimilisError, match="not an assumption"):
            assumptions([wrong])


def test_the_files_of_a_shard_hold_at_least_the_vectors_the_payload_and_its_indexes():
    found = measure(1_200, 16)
    assert found.parts["vector_storage"] >= 16 * 4 + 16
    assert found.parts["payload_storage"] >= found.payload_json > 300
    fields = [name for name in found.parts if name.startswith("payload_index, ")]
    assert len(fields) == len(KEYWORD_FIELDS) + len(INTEGER_FIELDS)


def test_both_ways_to_the_list_are_compared(capsys):
    facets.main(studies=300, repeats=1)
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]) == 1 + len(
        facets.FILTERS
    )
