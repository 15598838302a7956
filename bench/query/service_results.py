"""What is measured of the service and kept, as JSON. No path or host name is in it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bench.listener.results import Machine


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Concurrent(_Kept):
    """Clients at once, each with its next request after its last answer."""

    clients: PositiveInt
    requests: PositiveInt
    failed: NonNegativeInt
    requests_per_s: PositiveFloat
    p50_ms: PositiveFloat
    p99_ms: PositiveFloat


class Ingest(_Kept):
    """Searches while frames are stored at full speed; `points` were."""

    searches: Concurrent
    points: NonNegativeInt


class Upload(_Kept):
    """One 512 x 512 slice; the rest of the total is decoding, the picture and HTTP."""

    total_ms: PositiveFloat
    encode_ms: NonNegativeFloat
    search_ms: PositiveFloat


class ServiceResults(_Kept):
    """Everything of one benchmark: top-10 grouped by study, filtered by modality."""

    format: int = 1
    machine: Machine
    commit: str | None
    commit_is_modified: bool
    points: PositiveInt
    dim: PositiveInt
    upserts_per_s: PositiveFloat
    engine_p50_ms: PositiveFloat
    http_p50_ms: PositiveFloat
    http_p99_ms: PositiveFloat
    at_once: Concurrent
    while_storing: Ingest
    upload: Upload


def markdown(results: ServiceResults) -> str:
    """The tables."""
    return "\n".join(_lines(results))


def _lines(results: ServiceResults) -> Iterator[str]:
    yield (
        f"Top-10 by study, filtered, {results.points} synthetic vectors of length {results.dim}; "
        f"{results.machine.cpu}, {results.machine.cores} cores; {results.upserts_per_s:.0f} upserts/s by the socket"
    )
    yield ""
    yield "| | p50 ms | p99 ms | requests/s | failed |"
    yield "|---|---|---|---|---|"
    yield f"| engine by its socket, one client | {results.engine_p50_ms:.1f} | | | |"
    median = f"{results.http_p50_ms:.1f} ({results.http_p50_ms / results.engine_p50_ms:.1f} times the engine's)"
    yield f"| HTTP, one client | {median} | {results.http_p99_ms:.1f} | | |"
    storing = results.while_storing
    for title, one in (
        (f"HTTP, {results.at_once.clients} clients", results.at_once),
        (f"HTTP, 2 clients while {storing.points} frames are stored", storing.searches),
    ):
        yield f"| {title} | {one.p50_ms:.1f} | {one.p99_ms:.1f} | {one.requests_per_s:.0f} | {one.failed} |"
    upload = results.upload
    rest = max(0.0, upload.total_ms - upload.encode_ms - upload.search_ms)
    yield ""
    yield (
        f"Search by one uploaded slice: {upload.total_ms:.0f} ms, of which the model {upload.encode_ms:.0f}, the "
        f"search {upload.search_ms:.0f}, decoding, picture and HTTP {rest:.0f}."
    )
