"""Searches change to the backbone that the alias `live` stands for, and fail at no moment."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from light_box_seed import FakeEncoder, FakeFeatures, Seed

from services.query.follow_live import FIRST_PAUSE_S, FollowLive
from services.query.live_backbone import load_at_start, vision_of
from services.query.parts import Parts
from services.query.settings import QuerySettings
from services.query.spaces import Collections
from shared.errors import ConfigurationError, IndexUnavailableError, WeightsError
from shared.pixels.frame import Frame
from shared.settings import NextSettings, QdrantSettings, VisionSettings
from shared.vector_index import collection_name
from shared.vector_index.aliases import LIVE_ALIAS
from shared.vector_index.memory import MemoryAliases, MemoryIndex
from tests.services.query.conftest import client_of, ready_app

OTHER = FakeEncoder(id="other@111111111111-t1")
NAMES = [collection_name(FakeEncoder().id), collection_name(OTHER.id)]


@pytest.fixture
def seeded(empty: Seed) -> Seed:
    """Four studies in the index of each encoder."""
    for number in range(1, 5):
        empty.study(number, slices=2)
    return empty


def indexed_by(encoder: FakeEncoder, seeded: Seed) -> MemoryIndex:
    again = Seed(seeded.archive, MemoryIndex(encoder.dim), encoder)
    for number in range(1, 5):
        again.study(number, slices=2)
    return again.index


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Loading:
    """Loads an encoder; fails with what `failures` hold first."""

    index: MemoryIndex
    encoder: FakeEncoder = OTHER
    failures: list[Exception] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __call__(self, collection: str) -> tuple[FakeEncoder, Collections]:
        self.loaded.append(collection)
        if self.failures:
            raise self.failures.pop(0)
        return self.encoder, Collections(self.encoder.id, self.encoder.dim, self.index)


def following(app, load, aliases, clock=None, grace_s=60.0) -> FollowLive:
    def exchange(parts) -> None:
        app.state.parts = parts

    clock = clock or Clock()
    return FollowLive(aliases, load, lambda: app.state.parts, exchange, poll_s=0.01, grace_s=grace_s, clock=clock)


async def test_nothing_happens_until_the_alias_is_switched(seeded):
    app, aliases = ready_app(seeded), MemoryAliases(NAMES)
    load = Loading(indexed_by(OTHER, seeded))
    follow = following(app, load, aliases)
    assert not await follow.look()
    aliases.switch(LIVE_ALIAS, NAMES[0])
    assert not await follow.look()
    assert load.loaded == []


async def test_searches_change_to_the_other_backbone_and_back_and_cursors_of_the_old_are_refused(seeded):
    app, aliases = ready_app(seeded), MemoryAliases(NAMES)
    follow = following(app, Loading(indexed_by(OTHER, seeded)), aliases)
    request = {"study_instance_uid": seeded.studies[0].uid, "limit": 1}
    async with client_of(app) as client:
        first = (await client.post("/v1/search", json=request)).json()
        assert first["backbone_id"] == seeded.encoder.id
        aliases.switch(LIVE_ALIAS, NAMES[1])
        assert await follow.look()
        second = (await client.post("/v1/search", json=request)).json()
        assert second["backbone_id"] == OTHER.id
        assert second["results"]
        assert (await client.get("/v1/info")).json()["backbone_id"] == OTHER.id
        old = await client.post("/v1/search", json={**request, "cursor": first["next_cursor"]})
        assert (old.status_code, old.json()["type"]) == (422, "urn:similis:problem:invalid-cursor")
        aliases.switch(LIVE_ALIAS, NAMES[0])
        back = following(app, Loading(indexed_by(seeded.encoder, seeded), seeded.encoder), aliases)
        assert await back.look()
        assert (await client.post("/v1/search", json=request)).json() | {"took_ms": 0} == first | {"took_ms": 0}


@dataclass(frozen=True)
class Slow(FakeEncoder):
    """Takes until it is told to go on."""

    go_on: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def encode(self, frames: Sequence[Frame]) -> FakeFeatures:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().encode(frames)


async def test_a_search_under_way_ends_on_the_old_backbone_which_then_leaves_memory(seeded):
    slow = Slow()
    seeded.encoder = slow
    app, aliases = ready_app(seeded), MemoryAliases(NAMES)
    follow = following(app, Loading(indexed_by(OTHER, seeded)), aliases)
    file = {"file": ("slice.dcm", seeded.studies[0].files[0])}
    async with client_of(app) as client:
        under_way = asyncio.create_task(client.post("/v1/search/upload", files=file))
        assert await asyncio.to_thread(slow.begun.wait, 20)
        aliases.switch(LIVE_ALIAS, NAMES[1])
        assert await follow.look()
        # The new one is served while the old one's search goes on.
        request = {"study_instance_uid": seeded.studies[0].uid}
        assert (await client.post("/v1/search", json=request)).json()["backbone_id"] == OTHER.id
        slow.go_on.set()
        answer = (await under_way).json()
        assert answer["backbone_id"] == slow.id
        assert answer["results"]
    gc.collect()
    # Not isinstance: objects of other libraries answer that with warnings.
    assert not [held for held in gc.get_objects() if type(held) is Parts and held.encoder is slow]


async def test_what_cannot_be_loaded_changes_nothing_and_is_tried_again_later(seeded):
    app, aliases, clock = ready_app(seeded), MemoryAliases(NAMES), Clock()
    load = Loading(indexed_by(OTHER, seeded), failures=[WeightsError("not there"), RuntimeError("out of memory")])
    follow = following(app, load, aliases, clock)
    aliases.switch(LIVE_ALIAS, NAMES[1])
    request = {"study_instance_uid": seeded.studies[0].uid}
    async with client_of(app) as client:
        for pause_s in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S):
            tries = len(load.loaded)
            assert not await follow.look()
            assert not await follow.look()
            assert len(load.loaded) == tries + 1
            assert (await client.post("/v1/search", json=request)).json()["backbone_id"] == seeded.encoder.id
            assert (await client.get("/readyz")).status_code == 200
            assert "similis_query_live_followed 0.0" in (await client.get("/metrics")).text
            clock.now += pause_s
        assert await follow.look()
        assert (await client.post("/v1/search", json=request)).json()["backbone_id"] == OTHER.id
        assert "similis_query_live_followed 1.0" in (await client.get("/metrics")).text


async def test_a_collection_that_does_not_answer_is_not_changed_to(seeded):
    class Away(MemoryIndex):
        def count(self, *_: object) -> int:
            raise IndexUnavailableError("away")

    app, aliases = ready_app(seeded), MemoryAliases(NAMES)
    follow = following(app, Loading(Away(OTHER.dim)), aliases)
    aliases.switch(LIVE_ALIAS, NAMES[1])
    assert not await follow.look()
    assert app.state.parts.encoder is seeded.encoder


async def test_the_old_collections_are_closed_once_no_request_can_use_them(seeded):
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Closing(MemoryIndex):
        def close(self) -> None:
            loop.call_soon_threadsafe(closed.set)

    index = Closing(seeded.encoder.dim)
    index.upsert(seeded.index.scroll(limit=100))
    seeded.index = index
    app, aliases = ready_app(seeded), MemoryAliases(NAMES)
    follow = following(app, Loading(indexed_by(OTHER, seeded)), aliases, grace_s=0.05)
    aliases.switch(LIVE_ALIAS, NAMES[1])
    running = asyncio.create_task(follow())
    await asyncio.wait_for(closed.wait(), 20)
    assert app.state.parts.encoder is OTHER
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def weights(monkeypatch, ids: dict[str, str]) -> None:
    def backbone_id(vision: VisionSettings) -> str:
        if vision.backbone not in ids:
            raise WeightsError("not there")
        return ids[vision.backbone]

    monkeypatch.setattr("services.query.live_backbone.backbone_id", backbone_id)


def test_the_alias_names_one_of_the_two_backbones(monkeypatch):
    settings = QuerySettings(vision=VisionSettings(backbone="first"), next=NextSettings(backbone="second"))
    weights(monkeypatch, {"first": "first@1", "second": "second@2"})
    assert vision_of(settings, collection_name("second@2")).backbone == "second"
    assert vision_of(settings, collection_name("first@1")) is settings.vision
    with pytest.raises(ConfigurationError, match="neither"):
        vision_of(settings, collection_name("third@3"))


@pytest.mark.parametrize("trouble", ["unknown", "not loaded", "away", "never switched"])
def test_it_starts_with_the_first_backbone_where_the_searched_one_cannot_be_had(monkeypatch, trouble):
    settings = QuerySettings(
        vision=VisionSettings(backbone="first"),
        next=NextSettings(backbone="second"),
        qdrant=QdrantSettings(socket="nowhere"),
    )
    weights(monkeypatch, {"first": "first@1", "second": "second@2"})
    wanted = collection_name("third@3" if trouble == "unknown" else "second@2")
    aliases = MemoryAliases([wanted])
    if trouble != "never switched":
        aliases.switch(LIVE_ALIAS, wanted)

    def load_live(vision: VisionSettings) -> str:
        if vision.backbone == "second" and trouble == "not loaded":
            raise RuntimeError("out of memory")
        return vision.backbone

    if trouble != "away":  # else the real client finds no socket
        monkeypatch.setattr("services.query.live_backbone.open_aliases", lambda _: aliases)
    monkeypatch.setattr("services.query.live_backbone.load_live", load_live)
    assert load_at_start(settings) == "first"


def test_it_starts_with_the_searched_backbone(monkeypatch):
    settings = QuerySettings(vision=VisionSettings(backbone="first"), next=NextSettings(backbone="second"))
    weights(monkeypatch, {"first": "first@1", "second": "second@2"})
    aliases = MemoryAliases([collection_name("second@2")])
    aliases.switch(LIVE_ALIAS, collection_name("second@2"))
    monkeypatch.setattr("services.query.live_backbone.open_aliases", lambda _: aliases)
    monkeypatch.setattr("services.query.live_backbone.load_live", lambda vision: vision.backbone)
    assert load_at_start(settings) == "second"


class Unforeseen(MemoryAliases):
    """Fails once, with what no engine's adapter promises."""

    failures = 1

    def get(self, alias: str) -> str | None:
        if self.failures:
            self.failures -= 1
            raise ValueError("closed channel")
        return super().get(alias)


async def test_whatever_a_look_fails_with_the_next_one_follows(seeded):
    app, aliases = ready_app(seeded), Unforeseen(NAMES)
    aliases.switch(LIVE_ALIAS, NAMES[1])
    task = asyncio.create_task(following(app, Loading(indexed_by(OTHER, seeded)), aliases)())
    async with asyncio.timeout(20):
        while app.state.parts.encoder.id != OTHER.id and not task.done():
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert app.state.parts.encoder.id == OTHER.id
