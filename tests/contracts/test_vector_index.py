"""One suite for every `VectorIndex`: the fake, the embedded engine (in process and behind its owner), qdrant-client."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_settings import BaseSettings, SettingsConfigDict
from qdrant_client import QdrantClient

from shared.errors import ConfigurationError, IndexUnavailableError, InvalidVectorError
from shared.settings import QdrantSettings
from shared.vector_index import open_index
from shared.vector_index.aliases import LIVE_ALIAS, open_aliases
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.memory import MemoryAliases, MemoryIndex
from shared.vector_index.port import (
    KEYWORD_FIELDS,
    Aliases,
    AnyOf,
    Between,
    Condition,
    Filter,
    FramePayload,
    FramePoint,
    Hit,
    Region,
    VectorIndex,
)
from shared.vector_index.qdrant_aliases import QdrantServerAliases
from shared.vector_index.qdrant_server import QdrantServerIndex

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

DIM = 24
SERVE = "import sys, pathlib; from shared.vector_index import serve_edge; serve_edge(*map(pathlib.Path, sys.argv[1:]))"
KINDS = ("memory", "edge-engine", "edge-client", "qdrant-local", "qdrant-server")


class Environment(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SIMILIS_", env_nested_delimiter="__", extra="ignore")
    qdrant: QdrantSettings = QdrantSettings()


@pytest.fixture(scope="module")
def owner_socket() -> Iterator[Path]:
    """A running owner process; a short folder, since a Unix socket's path is short."""
    folder = Path(tempfile.mkdtemp(prefix="similis-"))
    socket = folder / "index.sock"
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(folder / "data"), str(socket)])
    try:
        wait_for(open_index(QdrantSettings(socket=socket), collection="probe", dim=2))
        yield socket
    finally:
        process.terminate()
        assert process.wait(30) == 0
        shutil.rmtree(folder)


def wait_for(index: VectorIndex) -> None:
    for _ in range(600):
        try:
            index.count()
            break
        except IndexUnavailableError:
            time.sleep(0.05)
    else:
        pytest.fail("the owner did not start")
    index.close()


@pytest.fixture(params=KINDS, scope="module")
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Opens a collection by name; the same name is the same collection."""
    opened: dict[str, VectorIndex] = {}
    suffix = uuid.uuid4().hex[:8]
    environment = Environment().qdrant
    local = QdrantClient(":memory:") if request.param == "qdrant-local" else None

    def build(name: str, dim: int) -> VectorIndex:
        match request.param:
            case "memory":
                return MemoryIndex(dim)
            case "edge-engine":
                few = IndexSection(flat_below_points=500)  # so that the larger collections have a graph
                return EdgeEngine(tmp_path_factory.mktemp("edge") / name, dim=dim, settings=few)
            case "edge-client":
                settings = QdrantSettings(socket=request.getfixturevalue("owner_socket"))
                return open_index(settings, collection=name, dim=dim)
            case "qdrant-local":
                assert local is not None
                return QdrantServerIndex(local, collection=name, dim=dim)
            case _:
                if environment.url is None:
                    pytest.skip("no Qdrant server: SIMILIS_QDRANT__URL is not set")
                return open_index(environment, collection=f"test-{suffix}-{name}", dim=dim)

    def make(name: str, dim: int = DIM) -> VectorIndex:
        if name not in opened:
            opened[name] = build(name, dim)
        return opened[name]

    yield make
    for index in opened.values():
        if request.param == "qdrant-server":
            index._client.delete_collection(index._collection)
        index.close()


@pytest.fixture
def index(make, request: pytest.FixtureRequest) -> VectorIndex:
    """An empty collection."""
    return make("c" + uuid.uuid5(uuid.NAMESPACE_OID, request.node.name).hex[:12])


def payload(rng: random.Random, number: int) -> FramePayload:
    study = rng.randrange(25)
    return FramePayload(
        study_instance_uid=f"1.2.{study}",
        series_instance_uid=f"1.2.{study}.{rng.randrange(3)}",
        sop_instance_uid=f"1.2.{study}.9.{number}",
        frame_number=rng.randrange(1, 9),
        revision=rng.randrange(1, 3),
        modality=rng.choice(["MR", "CT", "CR"]),
        body_part=rng.choice([None, "BRAIN", "CHEST", "A'b\"c \\ ü"]),
        patient_pseudonym=f"p{study % 11}",
        sex=rng.choice([None, "F", "M", "O"]),
        age_band=rng.choice([None, "040-049", "050-059"]),
        study_date=rng.choice([None, 20200101, 20210615, 20221231, 20240229]),
        backbone_id="b",
        task=rng.choice(["brain-mr", "none"]),
        decision=rng.choice(["accepted", "abstained"]),
        label=rng.choice([None, "normal", "glioma-like"]),
        label_source=rng.choice(["predicted", "confirmed"]),
        region=Region(left=number % 7 / 10, top=0.1, width=0.25, height=1 / 3) if number % 2 else None,
    )


def points(seed: int, count: int) -> list[FramePoint]:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    vectors = numbers.normal(size=(count, DIM)).astype(np.float32)
    vectors[1::7] = vectors[0::7][: len(vectors[1::7])]  # ties
    return [
        FramePoint(uuid.UUID(int=rng.getrandbits(128), version=4), vector, payload(rng, number))
        for number, vector in enumerate(vectors)
    ]


def conditions(data: list[FramePoint]) -> st.SearchStrategy[Condition]:
    """Conditions on the fields of `data`, with values that it holds and values that it lacks."""
    day = st.sampled_from([None, 20200101, 20210615, 20210616, 20221231, 20240229, 20300101])

    def any_of(field) -> st.SearchStrategy[Condition]:
        held = sorted({getattr(point.payload, field) for point in data} - {None})
        values = st.lists(st.sampled_from([*held, "absent"]), max_size=4, unique=True)
        return values.map(lambda chosen: AnyOf(field, tuple(chosen)))

    between = st.builds(Between, st.just("study_date"), day, day)
    return st.one_of(st.sampled_from(KEYWORD_FIELDS).flatmap(any_of), between)


def filters(data: list[FramePoint]) -> st.SearchStrategy[Filter]:
    some = st.lists(conditions(data), max_size=2).map(tuple)
    return st.builds(Filter, must=some, must_not=some)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def assert_same_hits(found: list[Hit], expected: list[Hit], query: np.ndarray, data: list[FramePoint]) -> None:
    """Equal scores in equal order, and every score is that of its point: equal up to ties."""
    by_id = {point.id: point for point in data}
    assert len({hit.id for hit in found}) == len(found)
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    for hit in found:
        assert hit.payload == by_id[hit.id].payload
        assert hit.score == pytest.approx(float(unit(by_id[hit.id].vector) @ unit(query)), abs=1e-5)
        assert -1 <= hit.score <= 1


class TestVectorIndex:
    def test_it_is_a_vector_index(self, index: VectorIndex) -> None:
        assert isinstance(index, VectorIndex)

    def test_an_empty_collection_answers_nothing(self, index: VectorIndex) -> None:
        vector = points(1, 1)[0].vector
        assert index.search(vector, limit=5) == []
        assert index.search_studies(vector, limit=5) == []
        assert index.scroll(limit=5) == []
        assert index.retrieve([uuid.uuid4()]) == []
        assert index.count() == 0
        assert index.facet("modality") == {}
        index.upsert([])
        index.delete(Filter(must=(AnyOf("modality", ("MR",)),)))

    def test_what_was_stored_comes_back_with_a_unit_vector(self, index: VectorIndex) -> None:
        data = points(2, 8)
        index.upsert(data)
        wanted = [data[5], data[0], data[3]]
        found = index.retrieve([wanted[0].id, uuid.uuid4(), wanted[1].id, wanted[2].id])
        assert [point.id for point in found] == [point.id for point in wanted]
        for got, put in zip(found, wanted, strict=True):
            assert got.payload == put.payload
            assert got.vector.dtype == np.float32
            np.testing.assert_allclose(got.vector, unit(put.vector), atol=1e-6)

    def test_storing_again_replaces(self, index: VectorIndex) -> None:
        data = points(3, 10)
        index.upsert(data)
        index.upsert(data)
        assert index.count() == 10
        bare = data[0].payload.model_copy(update={"modality": "US", "body_part": None, "label": None})
        index.upsert([FramePoint(data[0].id, data[1].vector, bare)])
        assert index.count() == 10
        (found,) = index.retrieve([data[0].id])
        assert found.payload == bare
        np.testing.assert_allclose(found.vector, unit(data[1].vector), atol=1e-6)
        assert index.count(Filter(must=(AnyOf("modality", ("US",)),))) == 1

    def test_the_last_of_two_points_with_one_id_counts(self, index: VectorIndex) -> None:
        first, second = points(4, 2)
        index.upsert([first, FramePoint(first.id, second.vector, second.payload)])
        assert [point.payload for point in index.scroll(limit=5)] == [second.payload]

    @pytest.mark.parametrize("broken", ["nan", "infinite", "zero", "short", "long", "matrix"])
    def test_invalid_vectors_are_refused_and_nothing_is_stored(self, index: VectorIndex, broken: str) -> None:
        good = points(5, 2)
        vector = good[0].vector.copy()
        match broken:
            case "nan":
                vector[3] = np.nan
            case "infinite":
                vector[3] = np.inf
            case "zero":
                vector[:] = 0
            case "short":
                vector = vector[:-1]
            case "long":
                vector = np.append(vector, np.float32(1))
            case "matrix":
                vector = vector[None]
        with pytest.raises(InvalidVectorError):
            index.upsert([good[1], FramePoint(good[0].id, vector, good[0].payload)])
        assert index.count() == 0
        with pytest.raises(InvalidVectorError):
            index.search(vector, limit=3)
        with pytest.raises(InvalidVectorError):
            index.search_studies(vector, limit=3)

    def test_delete_removes_what_meets_the_filter_and_no_more(self, index: VectorIndex) -> None:
        data = points(6, 60)
        index.upsert(data)
        doomed = Filter(must=(AnyOf("patient_pseudonym", ("p3",)),), must_not=(AnyOf("modality", ("CT",)),))
        reference = MemoryIndex(DIM)
        reference.upsert(data)
        assert 0 < reference.count(doomed) < 60
        index.delete(doomed)
        reference.delete(doomed)
        assert index.count(doomed) == 0
        assert {point.id for point in index.scroll(limit=100)} == {point.id for point in reference.scroll(limit=100)}

    def test_an_empty_filter_deletes_nothing(self, index: VectorIndex) -> None:
        index.upsert(points(7, 3))
        with pytest.raises(ValueError, match="empty filter"):
            index.delete(Filter())
        assert index.count() == 3

    def test_facets_are_of_keyword_fields_only(self, index: VectorIndex) -> None:
        with pytest.raises(ValueError, match="keyword"):
            index.facet("study_date")

    def test_a_facet_has_every_value(self, index: VectorIndex) -> None:
        data = [
            FramePoint(point.id, point.vector, point.payload.model_copy(update={"study_instance_uid": f"1.3.{number}"}))
            for number, point in enumerate(points(8, 150))
        ]
        index.upsert(data)
        assert index.facet("study_instance_uid") == {f"1.3.{number}": 1 for number in range(150)}

    def test_a_scroll_is_stable_while_data_arrives(self, index: VectorIndex) -> None:
        data, later = points(9, 90), points(10, 90)
        index.upsert(data)
        seen: list[FramePoint] = []
        after = None
        while page := index.scroll(limit=7, after=after):
            seen += page
            after = page[-1].id
            index.upsert(later[len(seen) % 80 : len(seen) % 80 + 5])
        ids = [point.id for point in seen]
        assert ids == sorted(ids)
        assert len(set(ids)) == len(ids)
        assert {point.id for point in data} <= set(ids)

    def test_a_scroll_may_end_at_the_last_possible_id(self, index: VectorIndex) -> None:
        data = points(11, 2)
        index.upsert([FramePoint(uuid.UUID(int=2**128 - 1), data[0].vector, data[0].payload), data[1]])
        last = index.scroll(limit=2)[-1]
        assert last.id == uuid.UUID(int=2**128 - 1)
        assert index.scroll(limit=2, after=last.id) == []

    def test_limits_below_one_find_nothing(self, index: VectorIndex) -> None:
        data = points(12, 2)
        index.upsert(data)
        assert index.search(data[0].vector, limit=0) == []
        assert index.search_studies(data[0].vector, limit=0) == []
        assert index.scroll(limit=0) == []

    def test_the_length_of_a_query_does_not_matter(self, index: VectorIndex) -> None:
        data = points(13, 20)
        index.upsert(data)
        near = [(hit.id, round(hit.score, 5)) for hit in index.search(data[2].vector, limit=3)]
        assert [(hit.id, round(hit.score, 5)) for hit in index.search(data[2].vector * 1000, limit=3)] == near
        assert near[0][1] == 1.0

    def test_one_study_with_many_frames_does_not_crowd_out_the_others(self, index: VectorIndex) -> None:
        base = points(14, 1)[0]
        numbers = np.random.default_rng(14)
        data = []
        for number in range(400):
            study = 0 if number < 380 else number
            spread = 0.01 if study == 0 else 2.0
            vector = (base.vector + spread * numbers.normal(size=DIM)).astype(np.float32)
            entry = base.payload.model_copy(update={"study_instance_uid": f"1.4.{study}"})
            data.append(FramePoint(uuid.uuid5(uuid.NAMESPACE_OID, str(number)), vector, entry))
        index.upsert(data)
        reference = MemoryIndex(DIM)
        reference.upsert(data)
        for limit in (1, 10, 21, 50):
            found = index.search_studies(base.vector, limit=limit)
            assert_same_hits(found, reference.search_studies(base.vector, limit=limit), base.vector, data)
            assert len({hit.payload.study_instance_uid for hit in found}) == min(limit, 21)

    def test_random_filters_give_what_the_fake_gives(self, make) -> None:
        index = make("filters")
        data = points(15, 150)
        index.upsert(data)
        reference = MemoryIndex(DIM)
        reference.upsert(data)
        sizes = set()

        @settings(max_examples=120, deadline=None, derandomize=True, database=None)
        @given(
            where=filters(data),
            seed=st.integers(0, 10_000),
            field=st.sampled_from(KEYWORD_FIELDS),
            after=st.none() | st.sampled_from([point.id for point in data]),
        )
        def compare(where: Filter, seed: int, field, after: uuid.UUID | None) -> None:
            query = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
            matching = reference.count(where)
            sizes.add(matching)
            assert index.count(where) == matching
            found = index.search(query, limit=10, where=where)
            assert_same_hits(found, reference.search(query, limit=10, where=where), query, data)
            studies = index.search_studies(query, limit=6, where=where)
            assert_same_hits(studies, reference.search_studies(query, limit=6, where=where), query, data)
            assert index.facet(field, where) == reference.facet(field, where)
            page, expected = (each.scroll(limit=9, where=where, after=after) for each in (index, reference))
            assert [point.id for point in page] == [point.id for point in expected]

        compare()
        assert {0, 150} < sizes
        assert len(sizes) > 25

    def test_insert_leaves_what_is_there(self, index: VectorIndex) -> None:
        old, new = points(17, 6), points(18, 6)
        index.upsert(old[:4])
        again = [FramePoint(was.id, now.vector, now.payload) for was, now in zip(old, new, strict=True)]
        twice = FramePoint(old[5].id, old[0].vector, old[0].payload)
        index.insert([*again, twice])
        index.insert([])
        found = index.retrieve([point.id for point in old])
        assert [point.payload for point in found] == [
            *(point.payload for point in old[:4]),
            *(point.payload for point in new[4:]),
        ]
        for got, put in zip(found, [*old[:4], *new[4:]], strict=True):
            np.testing.assert_allclose(got.vector, unit(put.vector), atol=1e-6)
        broken = FramePoint(uuid.uuid4(), np.zeros(DIM, np.float32), new[0].payload)
        with pytest.raises(InvalidVectorError):
            index.insert([FramePoint(uuid.uuid4(), new[0].vector, new[0].payload), broken])
        assert index.count() == 6

    def test_a_large_clustered_collection_is_found_by_its_graph(self, make) -> None:
        """Exact search recalls all of it; a graph .95 at least."""
        index, reference = make("graph"), MemoryIndex(DIM)
        numbers = np.random.default_rng(19)
        centres = numbers.normal(size=(40, DIM))
        data = [
            FramePoint(
                point.id,
                (centres[number % 40] + 0.4 * numbers.normal(size=DIM)).astype(np.float32),
                point.payload.model_copy(update={"study_instance_uid": f"1.6.{number // 4}"}),
            )
            for number, point in enumerate(points(19, 1600))
        ]
        for part in (data[:1200], data[1200:]):
            index.upsert(part)
            if isinstance(index, EdgeEngine) and len(part) == 1200:
                assert index.optimize()
                assert index.flat_points() < 200
        reference.upsert(data)
        where = Filter(must=(AnyOf("modality", ("MR", "CT")),), must_not=(AnyOf("patient_pseudonym", ("p3",)),))
        found = expected = 0
        for number in range(25):
            query = (centres[number] + 0.4 * numbers.normal(size=DIM)).astype(np.float32)
            for name, narrowed in (("search", Filter()), ("search", where), ("search_studies", where)):
                hits = getattr(index, name)(query, limit=10, where=narrowed)
                truth = getattr(reference, name)(query, limit=10, where=narrowed)
                found += len({hit.id for hit in hits} & {hit.id for hit in truth})
                expected += len(truth)
        assert expected == 750
        assert found / expected >= 0.95

    def test_collections_are_apart(self, make) -> None:
        one, other = make("apart-1"), make("apart-2", dim=8)
        one.upsert(points(20, 5))
        other.upsert([FramePoint(point.id, point.vector[:8], point.payload) for point in points(20, 3)])
        one.delete(Filter(must=(AnyOf("modality", ("MR", "CT", "CR")),)))
        assert (one.count(), other.count()) == (0, 3)


@pytest.fixture(params=("memory", "edge-client", "qdrant-local", "qdrant-server"))
def aliases(request: pytest.FixtureRequest) -> Iterator[Aliases]:
    """Aliases of an engine that holds the collections first and second, and perhaps others."""
    environment, names = Environment().qdrant, ("first", "second")
    local = QdrantClient(":memory:") if request.param == "qdrant-local" else None
    opened: list[VectorIndex] = []
    match request.param:
        case "memory":
            found: Aliases = MemoryAliases(names)
        case "edge-client":
            owner = QdrantSettings(socket=request.getfixturevalue("owner_socket"))
            opened = [open_index(owner, collection=name, dim=4) for name in names]
            found = open_aliases(owner)
        case "qdrant-local":
            assert local is not None
            opened = [QdrantServerIndex(local, collection=name, dim=4) for name in names]
            found = QdrantServerAliases(local)
        case _:
            if environment.url is None:
                pytest.skip("no Qdrant server: SIMILIS_QDRANT__URL is not set")
            opened = [open_index(environment, collection=name, dim=4) for name in names]
            found = open_aliases(environment)
    for index in opened:
        index.count()
    yield found
    if request.param == "qdrant-server":
        for index in opened:
            index._client.delete_collection(index._collection)
    for each in [*opened, found]:
        each.close()


class TestAliases:
    def test_an_alias_stands_for_what_it_was_switched_to_last(self, aliases: Aliases) -> None:
        assert isinstance(aliases, Aliases)
        assert aliases.get(LIVE_ALIAS) is None
        assert {"first", "second"} <= set(aliases.collections())
        for name in ("first", "second", "second", "first"):
            aliases.switch(LIVE_ALIAS, name)
            assert aliases.get(LIVE_ALIAS) == name
        assert aliases.get("other") is None

    def test_what_cannot_be_is_refused_and_the_alias_stays(self, aliases: Aliases) -> None:
        aliases.switch("task", "second")
        for alias, name in (("task", "third"), ("../task", "first"), ("", "first")):
            with pytest.raises(ConfigurationError):
                aliases.switch(alias, name)
        assert aliases.get("task") == "second"

    def test_a_dropped_collection_is_gone_and_one_with_an_alias_is_refused(self, aliases: Aliases) -> None:
        aliases.switch("task", "first")
        for name in ("first", "third"):
            with pytest.raises(ConfigurationError):
                aliases.drop(name)
        aliases.drop("second")
        found = aliases.collections()
        assert "first" in found
        assert "second" not in found
        assert aliases.get("task") == "first"


def test_another_vector_length_needs_another_collection(owner_socket: Path, tmp_path: Path) -> None:
    EdgeEngine(tmp_path / "edge", dim=8).close()
    with pytest.raises(ConfigurationError, match="length 8"):
        EdgeEngine(tmp_path / "edge", dim=9)

    settings = QdrantSettings(socket=owner_socket)
    first, second = (open_index(settings, collection="lengths", dim=dim) for dim in (8, 9))
    assert first.count() == 0
    with pytest.raises(ConfigurationError, match="length 8"):
        second.count()
    first.close()
    second.close()

    client = QdrantClient(":memory:")
    assert QdrantServerIndex(client, collection="lengths", dim=8).count() == 0
    with pytest.raises(ConfigurationError, match="length 9"):
        QdrantServerIndex(client, collection="lengths", dim=9).count()
    client.close()
