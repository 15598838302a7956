"""GET /v1/events over a real server: what happens to studies is told, kept for who comes back, and bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
from light_box_seed import Seed

from services.query.settings import QuerySection, QuerySettings
from shared.events import Decision
from shared.health import bind, serve
from tests.services.query.conftest import ready_app

FAST = {"catalogue_max_age_s": 0, "event_poll_s": 0.05}


@contextlib.asynccontextmanager
async def served(seed: Seed, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    app = ready_app(seed, QuerySettings(query=QuerySection(**{**FAST, **settings})))
    async with (
        serve(app, bind("127.0.0.1", 0), grace_s=5) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        client.news = app.state.parts.news
        try:
            yield client
        finally:
            app.state.parts.news.stop()


class Stream:
    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def block(self) -> dict[str, str]:
        """The next block's fields; a comment's name is empty."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if not line:
                    return fields
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        return fields  # the end

    async def event(self) -> dict[str, str]:
        while "event" not in (found := await self.block()):
            assert found, "the stream ended"
        return found


@contextlib.asynccontextmanager
async def listening(client: httpx.AsyncClient, last: str | None = None) -> AsyncIterator[Stream]:
    async with client.stream("GET", "/v1/events", headers={"Last-Event-ID": last} if last else {}) as response:
        assert response.status_code == 200, await response.aread()
        stream = Stream(response)
        stream.first = await stream.block()
        yield stream


def told(event: dict[str, str]) -> tuple[str, str, int]:
    study = json.loads(event["data"])
    assert study["notice"] == "research use only"
    return study["study_instance_uid"], study["state"], study["map_count"]


async def test_a_study_is_told_when_it_is_received_then_judged_then_explained(empty: Seed):
    empty.study(1)
    async with served(empty) as client, listening(client) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        uid = empty.study(2, decision=None).uid
        assert told(await stream.event()) == (uid, "waiting", 0)
        empty.study(2, label="glioma-like", decision=Decision.FINDING)
        assert told(await stream.event()) == (uid, "diagnosed", 0)
        empty.study(2, label="glioma-like", decision=Decision.FINDING, explained=True)
        event = await stream.event()
        assert event["event"] == "study"
        assert told(event) == (uid, "diagnosed", 1)


async def test_who_comes_back_with_the_last_id_is_told_what_happened_meanwhile_once(empty: Seed):
    async with served(empty) as client:
        async with listening(client) as stream:
            before_any = stream.first["id"]
            first = empty.study(1, decision=None).uid
            seen = await stream.event()
            assert told(seen)[0] == first
        second = empty.study(2, decision=None).uid
        async with listening(client, seen["id"]) as stream:
            assert told(await stream.event())[0] == second
        async with listening(client, before_any) as stream:
            assert [told(await stream.event())[0] for _ in range(2)] == [first, second]


async def test_an_id_of_another_run_or_one_no_longer_kept_gets_a_reset(empty: Seed):
    async with served(empty, event_kept_max=1) as client:
        async with listening(client) as stream:
            start = stream.first["id"]
            for number in (1, 2, 3):
                empty.study(number, decision=None)
            last = empty.study(4, decision=None).uid
            # Those that came within one look were too many to keep.
            while (event := await stream.event())["event"] != "reset" and last not in event["data"]:
                pass
        for unknown in (start, "0123456789ab-1", "no id", f"{start.split('-')[0]}-999"):
            async with listening(client, unknown) as stream:
                assert (await stream.event())["event"] == "reset", unknown


async def test_silence_is_filled_and_a_stream_ends_after_its_longest_time(empty: Seed):
    async with (
        served(empty, event_keep_alive_s=0.05, event_stream_max_s=0.5) as client,
        client.stream("GET", "/v1/events") as response,
    ):
        text = (await response.aread()).decode()
    assert text.startswith(": research use only\n")
    assert text.count(": keep-alive\n\n") >= 3


async def test_more_listeners_than_set_are_answered_with_503_until_one_goes(empty: Seed):
    async with served(empty, event_listeners_max=1, event_keep_alive_s=0.05) as client:
        async with listening(client):
            refused = await client.get("/v1/events")
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:similis:problem:busy")
            assert int(refused.headers["retry-after"]) > 0
            assert "similis_query_event_listeners 1.0" in (await client.get("/metrics")).text
        async with asyncio.timeout(5):
            while "similis_query_event_listeners 0.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.05)
        async with listening(client):
            pass


async def test_a_stop_ends_open_streams_at_once(empty: Seed):
    async with served(empty) as client, listening(client) as stream:
        asked = asyncio.get_running_loop().time()
        client.news.stop()
        assert await stream.block() == {}
        assert asyncio.get_running_loop().time() - asked < 1
        assert (await client.get("/v1/events")).status_code == 503
