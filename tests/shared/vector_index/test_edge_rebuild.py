"""Collections are rebuilt beside their searches and writes: nothing fails, nothing is lost, a kill changes nothing."""

from __future__ import annotations

import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from shared.errors import IndexUnavailableError
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_rebuild import build_command, drop_old
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import AnyOf, Filter, FramePoint

FEW = IndexSection(flat_below_points=300)


def scraped(owner, name: str) -> float:
    """One metric of the owner, 0 where it is not there yet."""
    with urllib.request.urlopen(str(owner.wait_ready()["metrics"]), timeout=30) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def wait_until(condition, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def test_a_rebuild_keeps_every_change_that_was_made_meanwhile(tmp_path: Path, frames) -> None:
    data = frames(0, 900)
    engine, reference = EdgeEngine(tmp_path / "c", dim=32, settings=FEW), MemoryIndex(32)
    assert not engine.is_rebuild_due()
    for index in (engine, reference):
        index.upsert(data[:800])
    assert engine.is_rebuild_due()
    draft = engine.begin_rebuild()
    p1, p2 = (Filter(must=(AnyOf("patient_pseudonym", (name,)),)) for name in ("p1", "p2"))
    for index in (engine, reference):
        index.upsert(
            [FramePoint(was.id, now.vector, now.payload) for was, now in zip(data[:50], data[60:], strict=False)]
        )
        index.delete(p1)
        index.insert(data[780:850])
    subprocess.run(build_command(draft), check=True, timeout=120)
    while engine.catch_up(at_most=40):
        pass
    for index in (engine, reference):
        index.delete(p2)
        index.upsert(data[850:860])
        index.upsert(data[0:3])
    engine.finish_rebuild()
    drop_old(engine.folder)
    assert engine.flat_points() < 300
    assert not engine.is_rebuild_due()
    assert [path.name for path in (tmp_path / "c").iterdir() if path.is_dir()] == ["shard"]

    for again in (False, True):
        if again:
            engine.close()
            engine = EdgeEngine(tmp_path / "c", dim=32, settings=FEW)
        found, expected = (index.scroll(limit=2000) for index in (engine, reference))
        assert [(point.id, point.payload) for point in found] == [(point.id, point.payload) for point in expected]
        for got, put in zip(found, expected, strict=True):
            np.testing.assert_allclose(got.vector, put.vector, atol=1e-6)
    engine.close()


def test_a_rebuild_that_is_given_up_leaves_the_collection_as_it_was(tmp_path: Path, frames) -> None:
    engine = EdgeEngine(tmp_path / "c", dim=32, settings=FEW)
    engine.upsert(frames(0, 20))
    draft = engine.begin_rebuild()
    (draft / "edge_config.json").write_text("rubbish")
    engine.upsert(frames(20, 5))
    with pytest.raises(IndexUnavailableError):
        engine.finish_rebuild()
    assert not draft.exists()
    assert engine.count() == 25
    engine.close()


@pytest.mark.parametrize("shard_is_out", [True, False])
def test_a_kill_while_the_copy_is_put_in_place_loses_nothing(tmp_path: Path, frames, shard_is_out: bool) -> None:
    engine = EdgeEngine(tmp_path / "c", dim=32, settings=FEW)
    engine.upsert(frames(0, 20))
    draft = engine.begin_rebuild()
    kept = tmp_path / "kept"
    draft.rename(kept)
    engine.close()
    kept.rename(draft)
    if shard_is_out:  # after the first of the two renames
        (tmp_path / "c" / "shard").rename(tmp_path / "c" / "shard.old")
    again = EdgeEngine(tmp_path / "c", settings=FEW)
    assert again.count() == 20
    assert not draft.exists()
    again.close()


def test_no_search_fails_while_ingestion_runs_at_full_speed_and_graphs_are_built(owner, frames) -> None:
    owner.environment = {
        "SIMILIS_INDEX__FLAT_BELOW_POINTS": "400",
        "SIMILIS_INDEX__OPTIMIZE_EVERY_S": "0.2",
        "SIMILIS_INDEX__POINTS_PER_TURN": "100",
    }
    owner.start()
    data = frames(0, 6000)
    stored = threading.Event()
    waits_s: list[float] = []
    failures: list[Exception] = []

    def search() -> None:
        index = owner.index(timeout_s=10)
        rng = np.random.default_rng(1)
        while not stored.is_set():
            started = time.monotonic()
            try:
                index.search(rng.normal(size=32).astype(np.float32), limit=5)
            except Exception as error:
                failures.append(error)
            waits_s.append(time.monotonic() - started)
            time.sleep(0.01)
        index.close()

    searcher = threading.Thread(target=search)
    index = owner.index()
    index.upsert(data[:500])
    searcher.start()
    number = 500
    try:
        while number < 6000 or scraped(owner, "similis_index_optimize_seconds_count") < 2:
            part = data[number : number + 250] or data[:250]
            index.upsert(part)  # once all are stored, stored again, so that writes never pause
            number += 250
            assert number < 60_000, "no graph was built"
    finally:
        stored.set()
        searcher.join()
    assert failures == []
    assert len(waits_s) > 20
    assert max(waits_s) < 5
    assert index.count() == 6000
    assert scraped(owner, 'similis_index_pause_seconds_count{step="swap"}') >= 2
    wait_until(lambda: scraped(owner, 'similis_index_flat_points{collection="frames"}') < 400)
    found = index.retrieve([point.id for point in data[::50]])
    assert [point.payload for point in found] == [point.payload for point in data[::50]]
    index.close()
    assert owner.stop() == 0


def test_an_owner_killed_while_it_rebuilds_loses_nothing_and_rebuilds_again(owner, frames) -> None:
    owner.environment = {"SIMILIS_INDEX__FLAT_BELOW_POINTS": "200", "SIMILIS_INDEX__OPTIMIZE_IDLE_S": "0.1"}
    owner.start()
    index = owner.index()
    index.upsert(frames(0, 800))
    wait_until(lambda: list((owner.data / "frames").glob("shard.draft-*")))
    owner.kill()
    owner.start()
    assert index.count() == 800
    wait_until(lambda: scraped(owner, "similis_index_optimize_seconds_count") >= 1)
    assert index.count() == 800
    assert scraped(owner, 'similis_index_flat_points{collection="frames"}') < 200
    index.close()
    assert owner.stop() == 0
    assert not list((owner.data / "frames").glob("shard.*"))


def test_a_graph_that_takes_too_long_is_given_up_and_counted(owner, frames) -> None:
    owner.environment = {
        "SIMILIS_INDEX__FLAT_BELOW_POINTS": "200",
        "SIMILIS_INDEX__OPTIMIZE_IDLE_S": "0.1",
        "SIMILIS_INDEX__BUILD_TIMEOUT_S": "0.05",
    }
    owner.start()
    index = owner.index()
    index.upsert(frames(0, 400))
    refused = 'similis_index_errors_total{kind="engine",operation="optimize"}'
    wait_until(lambda: scraped(owner, refused) >= 1)
    assert len(index.search(frames(0, 1)[0].vector, limit=5)) == 5
    assert index.count() == 400
    index.close()
    assert owner.stop() == 0
    assert not list((owner.data / "frames").glob("shard.*"))
