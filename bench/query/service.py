"""`python -m bench.query.service`: the query service over HTTP beside its engine, as real processes.

Synthetic clustered vectors (`engine_data`) in the collection of the default backbone, `similis index` and
`similis query` on loopback. Speed only: research use only, and what is found means nothing.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import typer
from prometheus_client.parser import text_string_to_metric_families

from bench.embedder.objects import slices
from bench.listener import machine
from bench.query.engine_data import TOP, Frames, frames
from bench.query.engine_results import keep
from bench.query.processes import Service, running
from bench.query.service_results import Concurrent, Ingest, ServiceResults, Upload, markdown
from shared.errors import SimilisError
from shared.settings import QdrantSettings
from shared.vector_index import collection_name, open_index
from shared.vector_index.port import AnyOf, Filter, VectorIndex

_BATCH: Final = 5_000
_BUILD_TIMEOUT_S: Final = 1_200.0
_FILTER: Final = {"modality": ["MR", "CT"]}
_WHERE: Final = Filter(must=(AnyOf("modality", ("MR", "CT")),))
Progress = Callable[[str], None]


def main(
    points: Annotated[int, typer.Option(min=1_000, help="Frames that are indexed first.")] = 100_000,
    queries: Annotated[int, typer.Option(min=8, help="Searches one after the other.")] = 200,
    clients: Annotated[int, typer.Option(min=1, help="Clients at once.")] = 32,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the runs with clients at once.")] = 15.0,
    json: Annotated[Path | None, typer.Option(help="Where to keep the figures.")] = None,
) -> None:
    """One client beside the engine, many at once, two while frames are stored at full speed, and uploads."""
    results = measure(points, queries, clients, seconds, lambda text: print(text, file=sys.stderr, flush=True))
    if json is not None:
        keep(json, results)
    print(markdown(results))


def measure(points: int, queries: int, clients: int, seconds: float, progress: Progress) -> ServiceResults:
    """Everything, in one run."""
    with tempfile.TemporaryDirectory(prefix="similis-bench-") as work, running(Path(work)) as service:
        described = machine.describe(Path(work))
        info = httpx.get(f"{service.url}/v1/info", timeout=60).json()
        collection, dim = collection_name(info["backbone_id"]), int(info["embedding_dim"])
        index = open_index(QdrantSettings(socket=service.socket, timeout_s=120), collection=collection, dim=dim)
        data = frames(points + points // 2, dim, queries=queries)
        started = time.perf_counter()
        for start in range(0, points, _BATCH):
            index.upsert(data.points(start, min(points, start + _BATCH)))
        upsert_s = time.perf_counter() - started
        progress(f"{points} points stored in {upsert_s:.0f} s")
        _wait_for_graph(service, collection)
        progress("the index is at rest")
        engine_ms, http_ms = _one_after_the_other(service, index, data)
        progress("one after the other: done")
        together = asyncio.run(_at_once(service, data, clients, seconds))
        progress(f"{clients} clients: done")
        upload = _uploads(service, engine_ms)
        ingest = _while_storing(service, index, data, points, seconds)
        index.close()
    commit, is_modified = machine.commit(Path(__file__).resolve().parents[2])
    return ServiceResults(
        machine=described,
        commit=commit,
        commit_is_modified=is_modified,
        points=points,
        dim=dim,
        upserts_per_s=points / upsert_s,
        engine_p50_ms=float(np.percentile(engine_ms, 50)),
        http_p50_ms=float(np.percentile(http_ms, 50)),
        http_p99_ms=float(np.percentile(http_ms, 99)),
        at_once=together,
        while_storing=ingest,
        upload=upload,
    )


def _request(data: Frames, query: int) -> dict[str, Any]:
    return {"vector": [float(value) for value in data.queries[query]], "limit": TOP, "filters": _FILTER}


def _one_after_the_other(service: Service, index: VectorIndex, data: Frames) -> tuple[list[float], list[float]]:
    """Milliseconds of the same searches by the engine's socket and by HTTP, in turns."""
    engine_ms, http_ms = [], []
    with httpx.Client(base_url=service.url, timeout=60) as client:
        for query in range(len(data.queries)):
            started = time.perf_counter()
            index.search_studies(data.queries[query], limit=TOP, where=_WHERE)
            between = time.perf_counter()
            client.post("/v1/search", json=_request(data, query)).raise_for_status()
            engine_ms.append(1e3 * (between - started))
            http_ms.append(1e3 * (time.perf_counter() - between))
    return engine_ms, http_ms


async def _at_once(service: Service, data: Frames, clients: int, seconds: float) -> Concurrent:
    """As many requests as `clients` can send for a while, each one after its last."""
    spent: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds

    async def one(number: int, client: httpx.AsyncClient) -> None:
        nonlocal failed
        query = number
        while (started := time.perf_counter()) < end:
            answer = await client.post("/v1/search", json=_request(data, query % len(data.queries)))
            failed += not answer.is_success
            spent.append(1e3 * (time.perf_counter() - started))
            query += clients

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=service.url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(one(number, client) for number in range(clients)))
    return Concurrent(
        clients=clients,
        requests=len(spent),
        failed=failed,
        requests_per_s=len(spent) / seconds,
        p50_ms=float(np.percentile(spent, 50)),
        p99_ms=float(np.percentile(spent, 99)),
    )


def _while_storing(service: Service, index: VectorIndex, data: Frames, stored: int, seconds: float) -> Ingest:
    """Two clients search while new frames come in as fast as they are taken."""
    done = threading.Event()
    written = 0

    def store() -> None:
        nonlocal written
        start = stored
        while not done.is_set() and start < len(data.rows):
            batch = data.points(start, start + 1_000)
            index.upsert(batch)
            written += len(batch)
            start += 1_000

    writer = threading.Thread(target=store)
    writer.start()
    try:
        found = asyncio.run(_at_once(service, data, 2, seconds))
    finally:
        done.set()
        writer.join()
    return Ingest(searches=found, points=written)


def _uploads(service: Service, engine_ms: list[float]) -> Upload:
    """Searches by a file, and how much of that is the model."""
    files = slices(8, "uncompressed")
    total_ms, before = [], _encode_seconds(service)
    with httpx.Client(base_url=service.url, timeout=120) as client:
        for data in files:
            started = time.perf_counter()
            client.post("/v1/search/upload", files={"file": ("slice.dcm", data)}).raise_for_status()
            total_ms.append(1e3 * (time.perf_counter() - started))
    encode_ms = 1e3 * (_encode_seconds(service) - before) / len(files)
    return Upload(total_ms=float(np.mean(total_ms)), encode_ms=encode_ms, search_ms=float(np.percentile(engine_ms, 50)))


def _encode_seconds(service: Service) -> float:
    return _metric(httpx.get(f"{service.url}/metrics", timeout=30).text, "similis_query_encode_seconds_sum")


def _wait_for_graph(service: Service, collection: str) -> None:
    """Until the engine has no graph to build."""
    deadline_s = time.monotonic() + _BUILD_TIMEOUT_S
    calm = 0
    while calm < 8:
        text = httpx.get(service.index_metrics, timeout=120).text
        is_busy = _metric(text, "similis_index_rebuilding") > 0
        flat = _metric(text, "similis_index_flat_points", collection=collection)
        calm = 0 if is_busy or flat >= service.flat_below_points else calm + 1
        if time.monotonic() > deadline_s:
            raise SimilisError(f"no graph was built within {_BUILD_TIMEOUT_S:g} s")
        time.sleep(1)


def _metric(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.query.service: {error}", file=sys.stderr)
        sys.exit(1)
