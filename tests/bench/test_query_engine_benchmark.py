"""The engine's benchmark measures what it says: a graph is built, and the exact answers are exact."""

from __future__ import annotations

import numpy as np

from bench.query.engine import measure
from bench.query.engine_data import TOP, frames
from bench.query.engine_results import EnginePlan, markdown
from shared.vector_index.memory import MemoryIndex


def test_the_exact_answers_are_those_of_the_fake() -> None:
    data = frames(400, 16, queries=8)
    reference = MemoryIndex(16)
    reference.upsert(data.points(0, 400))
    assert np.allclose(np.linalg.norm(data.rows, axis=1), 1, atol=1e-5)
    for query, vector in enumerate(data.queries):
        where, passing = data.where(query), data.passing(query)
        assert reference.count(where) == passing.sum()
        assert [hit.id.int - 1 for hit in reference.search(vector, limit=TOP, where=where)] == [
            *data.exact(query, passing)
        ]
        studies = [
            int(hit.payload.study_instance_uid.rpartition(".")[2])
            for hit in reference.search_studies(vector, limit=TOP, where=where)
        ]
        assert studies == [*data.exact_studies(query, passing)]


def test_a_small_run_builds_a_graph_and_recalls() -> None:
    plan = EnginePlan(sizes=(1_200,), dims=(16,), queries=10, flush_every=500, flat_below_points=400)
    results = measure(plan, progress=lambda _: None)
    (run,) = results.runs
    assert run.build_s > 0
    assert run.flat_points < 400
    assert [search.kind for search in run.searches] == ["none", "filtered", "grouped"]
    assert min(search.recall_at_10 for search in run.searches) > 0.9
    assert "1200 x 16" in markdown(results)
