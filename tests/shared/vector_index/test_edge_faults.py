"""The owner process killed, doubled, stopped and starved: what was acknowledged stays."""

from __future__ import annotations

import random
import re
import signal
import stat
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpcore
import numpy as np
import pytest
import qdrant_edge

from shared.errors import ConfigurationError, IndexUnavailableError, PermanentError
from shared.vector_index import serve_edge
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_folder import FolderLock
from shared.vector_index.port import AnyOf, Filter
from shared.vector_index.wire import pack

ALL: dict[str, list[object]] = {"must": [], "must_not": []}


def ask(**message: object) -> bytes:
    """A request's body."""
    return pack({"dim": 32, **message})


def writer(index, frames, start: int, acknowledged: list, stop: threading.Event) -> None:
    """Stores batches until told to stop, and notes those that were acknowledged."""
    number = start
    while not stop.is_set():
        batch = frames(number, 8)
        try:
            index.upsert(batch)
        except IndexUnavailableError:
            time.sleep(0.02)  # the same batch again, as the pipeline does
            continue
        acknowledged.extend(batch)
        number += 8


def test_every_acknowledged_point_outlives_kills(owner, frames) -> None:
    owner.start()
    index = owner.index()
    rng = random.Random(3)
    acknowledged: list[list] = [[], [], []]
    stop = threading.Event()
    threads = [
        threading.Thread(target=writer, args=(index, frames, 100_000 * number, acknowledged[number], stop))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            enough = sum(map(len, acknowledged)) + 40
            deadline = time.monotonic() + 60
            while sum(map(len, acknowledged)) < enough and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))  # wherever the engine is by then
            owner.kill()
            owner.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    points = [point for each in acknowledged for point in each]
    assert len(points) >= 160
    owner.kill()
    owner.start()
    found = {point.id: point for point in index.retrieve([point.id for point in points])}
    assert len(found) == len(points)
    for point in points:
        assert found[point.id].payload == point.payload
        np.testing.assert_allclose(found[point.id].vector, point.vector / np.linalg.norm(point.vector), atol=1e-6)
    index.close()


def test_a_delete_outlives_a_kill(owner, frames) -> None:
    owner.start()
    index = owner.index()
    index.upsert(frames(0, 70))
    index.delete(Filter(must=(AnyOf("patient_pseudonym", ("p3",)),)))
    owner.kill()
    owner.start()
    assert index.count() == 60
    assert "p3" not in index.facet("patient_pseudonym")
    index.close()


def test_a_kill_while_a_collection_is_made_leaves_nothing_half_made(tmp_path: Path, frames) -> None:
    draft = tmp_path / "c" / "shard.new" / "segments"
    draft.mkdir(parents=True)
    (draft / "rubbish").write_text("half made")
    engine = EdgeEngine(tmp_path / "c", dim=32)
    engine.upsert(frames(0, 3))
    assert engine.count() == 3
    engine.close()


def test_a_second_owner_is_refused_and_the_first_goes_on(owner, frames, tmp_path: Path) -> None:
    owner.start()
    index = owner.index()
    index.upsert(frames(0, 10))

    same_folder = subprocess.run(
        owner.command(socket=owner.socket.with_name("other.sock")), capture_output=True, text=True, timeout=60
    )
    assert same_folder.returncode == 2
    assert f"in use by process {owner.process.pid}" in same_folder.stderr
    same_socket = subprocess.run(owner.command(data=tmp_path / "data"), capture_output=True, text=True, timeout=60)
    assert same_socket.returncode == 2
    assert "another process answers" in same_socket.stderr

    index.upsert(frames(10, 10))
    owner.kill()
    owner.start()
    assert index.count() == 20
    index.close()


def test_a_client_outlives_its_owner(owner, frames) -> None:
    index = owner.index()
    with pytest.raises(IndexUnavailableError):
        index.count()
    owner.start()
    index.upsert(frames(0, 5))
    owner.kill()
    with pytest.raises(IndexUnavailableError):
        index.upsert(frames(5, 5))
    with pytest.raises(IndexUnavailableError):
        index.search(frames(0, 1)[0].vector, limit=1)
    owner.start()
    index.upsert(frames(5, 5))
    assert index.count() == 10
    index.close()


def test_an_owner_that_hangs_is_unavailable(owner, frames) -> None:
    owner.start()
    patient, index = owner.index(), owner.index(timeout_s=0.3)
    patient.upsert(frames(0, 5))
    owner.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(IndexUnavailableError, match="in time"):
            index.count()
    finally:
        owner.process.send_signal(signal.SIGCONT)
    assert patient.count() == 5
    patient.close()
    index.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_in_order(owner, frames, number: int) -> None:
    owner.start()
    index = owner.index()
    acknowledged: list = []
    stop = threading.Event()
    thread = threading.Thread(target=writer, args=(index, frames, 0, acknowledged, stop))
    thread.start()
    time.sleep(0.5)
    try:
        assert owner.stop(number) == 0
    finally:
        stop.set()
        thread.join()
    assert not owner.socket.exists()
    owner.start()
    assert acknowledged
    assert len(index.retrieve([point.id for point in acknowledged])) == len(acknowledged)
    index.close()


def test_concurrent_upserts_share_flushes(owner, frames) -> None:
    owner.start()
    index = owner.index()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: index.upsert(frames(8 * number, 8)), range(120)))
    assert index.count() == 960
    metrics = scrape(owner)
    assert metrics["similis_index_upserted_points_total"] == 960
    assert metrics["similis_index_commits_total"] < 120
    assert metrics['similis_index_points{collection="frames"}'] == 960
    index.close()


def test_metrics_are_served_on_the_port_and_on_the_socket(owner, frames) -> None:
    owner.start()
    index = owner.index()
    index.upsert(frames(0, 5))
    assert scrape(owner)['similis_index_request_seconds_count{operation="upsert"}'] == 1
    with httpcore.ConnectionPool(uds=str(owner.socket)) as http:
        assert b"similis_index_points" in http.request("GET", "http://index/metrics").content
        assert http.request("GET", "http://index/livez").status == 200
        assert http.request("GET", "http://index/readyz").status == 200
    index.close()


def test_only_this_user_may_open_the_socket(owner) -> None:
    owner.start()
    assert stat.S_IMODE(owner.socket.stat().st_mode) == 0o600


def test_an_engine_that_fails_is_opened_again(tmp_path: Path, frames) -> None:
    engine = EdgeEngine(tmp_path / "c", dim=32)
    engine.upsert(frames(0, 20))
    # A second opener makes the first one's next flush fail: the lock is there to prevent this.
    with pytest.raises(Exception, match="WAL"):
        qdrant_edge.EdgeShard.load(str(tmp_path / "c" / "shard"))
    with pytest.raises(IndexUnavailableError):
        engine.upsert(frames(20, 5))
    engine.upsert(frames(20, 5))
    assert engine.count() == 25
    engine.close()


def test_the_lock_refuses_a_second_opener_and_is_given_back(tmp_path: Path) -> None:
    engine = EdgeEngine(tmp_path / "c", dim=8)
    with pytest.raises(ConfigurationError, match="in use by process"):
        EdgeEngine(tmp_path / "c", dim=8)
    engine.close()
    EdgeEngine(tmp_path / "c").close()
    lock = FolderLock(tmp_path / "c")
    with pytest.raises(ConfigurationError, match="in use by process"):
        EdgeEngine(tmp_path / "c", dim=8)
    lock.release()


def test_a_folder_without_a_collection_needs_a_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no collection"):
        EdgeEngine(tmp_path / "c")
    EdgeEngine(tmp_path / "c", dim=8).close()


def test_a_socket_path_that_is_too_long_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="longer than 107 bytes"):
        serve_edge(tmp_path / "data", tmp_path / ("s" * 120))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("frames/count", b"", 400),
        ("frames/count", b"\xff\xff", 400),
        ("frames/count", pack({}), 400),
        ("frames/count", ask(where={"must": [["any", "x", []]], "must_not": []}), 400),
        ("frames/count", ask(where={"must": [["like", "label", "a"]], "must_not": []}), 400),
        ("frames/count", ask(dim=33, where=ALL), 409),
        ("..%2Fevil/count", ask(where=ALL), 404),
        (".hidden/count", ask(where=ALL), 409),
        ("frames/delete", ask(where=ALL), 400),
        ("frames/drop", pack({}), 404),
        ("frames/upsert", ask(ids=b"x" * 16, vectors=b"x" * 128, payloads=[{}]), 400),
        ("frames/upsert", ask(ids=b"x" * 15, vectors=b"x" * 128, payloads=[{}]), 400),
        ("frames/search", ask(vector=b"\0" * 128, limit=1, where=ALL), 422),
        ("frames/search", ask(vector=b"\1" * 127, limit=1, where=ALL), 400),
        ("frames/search", ask(vector=b"\1" * 128, limit="1", where=ALL), 400),
        ("frames/upsert", b"\0" * 2_000_000, 413),
    ],
)
def test_bad_requests_are_refused_and_the_owner_goes_on(shared_owner, path: str, body: bytes, status: int) -> None:
    with httpcore.ConnectionPool(uds=str(shared_owner.socket)) as http:
        assert http.request("POST", f"http://index/v1/{path}", content=body).status == status
    assert not list(shared_owner.data.parent.glob("evil"))
    index = shared_owner.index()
    assert index.count() == 20
    index.close()


def test_a_refused_request_is_a_permanent_error_for_the_client(shared_owner, frames) -> None:
    index = shared_owner.index()
    with pytest.raises(PermanentError, match="413"):
        index.upsert(frames(0, 1) * 1000)
    index.close()


def scrape(owner) -> dict[str, float]:
    """The metrics that the monitoring port shows."""
    url = str(owner.wait_ready()["metrics"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url)
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
