"""Above `flat_below_points` a graph is built, by the owner and while nobody writes."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import AnyOf, Filter


def test_a_graph_finds_what_the_exact_search_finds(tmp_path: Path, frames) -> None:
    data = frames(0, 1500)
    engine = EdgeEngine(tmp_path / "c", dim=32, settings=IndexSection(flat_below_points=500))
    reference = MemoryIndex(32)
    engine.upsert(data[:400])
    assert not engine.optimize()
    engine.upsert(data[:1200])
    assert engine.optimize()
    engine.upsert(data[1200:])
    reference.upsert(data)
    assert engine.count() == 1500

    found = expected = 0
    for query in frames(5000, 40):
        for where in (Filter(), Filter(must_not=(AnyOf("patient_pseudonym", ("p1", "p2")),))):
            truth = {hit.id for hit in reference.search(query.vector, limit=10, where=where)}
            found += len(truth & {hit.id for hit in engine.search(query.vector, limit=10, where=where)})
            expected += 10
    assert found / expected > 0.97

    doomed = Filter(must=(AnyOf("patient_pseudonym", ("p1",)),))
    engine.delete(doomed)
    engine.optimize()
    assert engine.count(doomed) == 0
    engine.close()
    again = EdgeEngine(tmp_path / "c")
    assert again.count() == 1500 - reference.count(doomed)
    again.close()


def test_the_owner_optimises_once_writes_pause(owner, frames) -> None:
    owner.environment = {"SIMILIS_INDEX__FLAT_BELOW_POINTS": "200", "SIMILIS_INDEX__OPTIMIZE_IDLE_S": "0.3"}
    owner.start()
    index = owner.index()
    index.upsert(frames(0, 800))
    url = str(owner.wait_ready()["metrics"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(url, timeout=30) as response:
            if b"similis_index_optimize_seconds_count 1.0" in response.read():
                break
        time.sleep(0.1)
    else:
        raise AssertionError("never optimised")
    assert index.count() == 800
    index.close()
    assert owner.stop() == 0
