"""The tail of a fan-out: a query waits for the slowest segment of the slowest of all shards.

Times of a segment are drawn from a lognormal distribution through the measured median and 99th percentile. Nodes are
lost or slow as a whole, so copies of different shards on one node share its fate. Nothing queues: the model holds
below the load that `queries_per_second` names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from bench.query.cluster_model import Assumptions, Layout

_Z99: Final = 2.3263478740408408
_QUERIES_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """Milliseconds of one search of one segment, lognormal."""

    p50_ms: float
    p99_ms: float

    @property
    def sigma(self) -> float:
        """Of the logarithm."""
        return max(0.0, math.log(self.p99_ms / self.p50_ms)) / _Z99

    def scaled(self, factor: float) -> SegmentTime:
        """All times `factor` as long."""
        return SegmentTime(self.p50_ms * factor, self.p99_ms * factor)

    def draw(self, numbers: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Times of that shape."""
        return numbers.lognormal(math.log(self.p50_ms), self.sigma, shape)


class Latency(BaseModel):
    """Of whole queries. One that lacks a shard is unanswered, and counts as endless in the percentiles."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    p50_ms: float
    p99_ms: float
    p999_ms: float
    answered: float


def simulate(
    assumed: Assumptions,
    at: Layout,
    time: SegmentTime,
    *,
    rounds: int = 1,
    nodes_down: int = 0,
    hedged: bool = False,
    queries: int = 20_000,
    seed: int = 1,
) -> Latency:
    """Latencies of `queries` queries, one after the other.

    Args:
        assumed: What is taken for granted.
        at: The cluster.
        time: Of a segment of its size.
        rounds: Fan-outs of one query; a search by study asks again for studies not yet seen.
        nodes_down: Nodes that do not answer, drawn anew for each query; the cluster knows that they are down.
        hedged: A second copy is asked once the first has taken the assumed quantile of a shard's time.
        queries: How many.
        seed: The same seed draws the same times for a copy, however many others there are.
    """
    parts = [
        _latencies(assumed, at, time, rounds, nodes_down, hedged, min(_QUERIES_AT_ONCE, queries - start), seed + start)
        for start in range(0, queries, _QUERIES_AT_ONCE)
    ]
    found = np.concatenate(parts)
    # An interpolation with an endless one would be no number.
    p50, p99, p999 = np.percentile(found, [50, 99, 99.9], method="higher")
    return Latency(p50_ms=p50, p99_ms=p99, p999_ms=p999, answered=float(np.isfinite(found).mean()))


def _latencies(
    assumed: Assumptions,
    at: Layout,
    time: SegmentTime,
    rounds: int,
    nodes_down: int,
    hedged: bool,
    queries: int,
    seed: int,
) -> NDArray[np.float64]:
    fate = np.random.default_rng([seed, 0])
    down = fate.random((queries, at.nodes)).argsort(axis=1) < nodes_down
    pace = np.where(fate.random((queries, at.nodes)) < assumed.slow_node_share, assumed.slow_node_factor, 1.0)
    total = np.zeros(queries)
    wait_ms = _quantile(assumed, time)
    for turn in range(rounds):
        numbers = [np.random.default_rng([seed, 1 + turn, copy]) for copy in range(at.replicas)]
        first, second = _copies(assumed, at, time, numbers, down, pace)
        shards = np.minimum(first, wait_ms + second) if hedged else first
        total += shards.max(axis=1)
    return total


def _copies(
    assumed: Assumptions,
    at: Layout,
    time: SegmentTime,
    numbers: list[np.random.Generator],
    down: NDArray[np.bool_],
    pace: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(Q, S) milliseconds of the first and the second copy that is up; endless where there is none."""
    queries = len(down)
    first = np.full((queries, at.shards), np.inf)
    second = first.copy()
    reads = assumed.limit * assumed.oversampling
    for copy in range(at.replicas):
        drawn = numbers[copy]
        node = (np.arange(at.shards) * at.nodes // at.shards + copy) % at.nodes
        spent = time.draw(drawn, (queries, at.shards, assumed.segments_per_shard)).max(axis=2) * pace[:, node]
        # Each read and the way there and back take an exponential time.
        spent += assumed.cold_read_ms * drawn.standard_gamma(reads, (queries, at.shards))
        spent += assumed.network_ms * drawn.standard_exponential((queries, at.shards))
        spent[down[:, node]] = np.inf
        has_first = np.isfinite(first)
        second = np.where(has_first & np.isinf(second), spent, second)
        first = np.where(has_first, first, spent)
    return first, second


def _quantile(assumed: Assumptions, time: SegmentTime) -> float:
    """The assumed quantile of a shard's time, its reads and network by their means."""
    shares = np.random.default_rng(0)
    segments = time.draw(shares, (4_000, assumed.segments_per_shard)).max(axis=1)
    reads_ms = assumed.limit * assumed.oversampling * assumed.cold_read_ms
    return float(np.quantile(segments, assumed.hedge_quantile)) + reads_ms + assumed.network_ms
