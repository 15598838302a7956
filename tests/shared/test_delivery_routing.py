"""Where a record goes, without a broker: the parts that time and edge cases decide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from faststream.exceptions import NackMessage

from shared.delivery.cloudevents import Headers
from shared.delivery.routing import InterruptedPauseError, Pauses, Router, Turns
from shared.errors import (
    ArchiveUnavailableError,
    BrokerUnavailableError,
    EventTooLargeError,
    PermanentError,
    UndecodablePixelsError,
)
from shared.health import Health
from shared.settings import KafkaSettings


class RememberingPublisher:
    """Keeps what it is told to publish; `refuse` makes the next ones fail."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = []
        self.refuse: list[Exception] = []

    async def publish_record(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        self.published.append((topic, key, value, dict(headers)))


NOW = 1_700_000_000.0
SETTINGS = KafkaSettings(
    bootstrap="unused:1", transient_attempts=2, transient_pause_s=0.001, retry_delay_s=30.0, retry_rounds=3
)


@pytest.fixture
def publisher() -> RememberingPublisher:
    return RememberingPublisher()


@pytest.fixture
def router(publisher: RememberingPublisher) -> Router:
    return Router(SETTINGS, "g", publisher, Turns(), Health(), now=lambda: NOW)  # type: ignore[arg-type]


def record(topic: str = "t", value: bytes | None = b"{}", headers: Headers | None = None) -> ConsumerRecord[Any, Any]:
    return ConsumerRecord(topic, 3, 42, 0, 0, b"k", value, None, 1, 2, headers or [])


def raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def handle() -> None:
        raise error

    return handle


async def nothing() -> None:
    return


async def test_a_retry_carries_its_round_its_time_and_where_it_came_from(
    router: Router, publisher: RememberingPublisher
) -> None:
    await router.deliver(record(headers=[("ce_id", b"\xff")]), raising(ArchiveUnavailableError("x")))
    [(topic, key, value, headers)] = publisher.published
    assert (topic, key, value) == ("t.retry", b"k", b"{}")
    assert headers["ce_id"] == b"\xff"
    assert headers["similis-retry-round"] == b"1"
    assert headers["similis-not-before-ms"] == str(int((NOW + 30) * 1000)).encode()
    assert headers["similis-original-partition"] == b"3"
    assert headers["similis-original-offset"] == b"42"
    assert headers["similis-attempts"] == b"2"
    assert headers["similis-group"] == b"g"


async def test_an_error_that_nobody_foresaw_is_told_by_its_kind_and_place_alone(
    router: Router, publisher: RememberingPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Libraries quote what they choke on, and here that may be a patient's name."""

    name = "^".join(("DOE", "JANE"))  # a traceback quotes source code, so not as a literal

    async def handle() -> None:
        try:
            {}[name]
        except KeyError as error:
            raise ValueError(f"no date: {name}") from error

    await router.deliver(record(), handle)

    [(topic, _, _, headers)] = publisher.published
    assert topic == "t.dlq"
    assert headers["similis-error-class"] == b"ValueError"
    assert b"test_delivery_routing.py, line" in headers["similis-error-message"]
    said = "\n".join(caplog.handler.format(each) for each in caplog.records)
    assert "test_delivery_routing.py, line" in said
    assert name not in said + str(headers)


async def test_the_next_round_replaces_the_headers_and_keeps_the_origin(
    router: Router, publisher: RememberingPublisher
) -> None:
    await router.deliver(record(), raising(ArchiveUnavailableError("x")))
    [(topic, _, _, headers)] = publisher.published
    headers["similis-not-before-ms"] = b"0"
    await router.deliver(record(topic, headers=list(headers.items())), raising(ArchiveUnavailableError("y")))
    assert publisher.published[1][0] == "t.retry"
    again = publisher.published[1][3]
    assert again["similis-retry-round"] == b"2"
    assert again["similis-attempts"] == b"4"
    assert again["similis-original-topic"] == b"t"
    assert again["similis-original-offset"] == b"42"
    assert again["similis-error-message"] == b"y"


async def test_after_the_last_round_a_transient_error_is_dead_lettered(
    router: Router, publisher: RememberingPublisher
) -> None:
    headers = [("similis-group", b"g"), ("similis-retry-round", b"3"), ("similis-attempts", b"8")]
    await router.deliver(record("t.retry", headers=headers), raising(ArchiveUnavailableError("x")))
    [(topic, _, _, sent)] = publisher.published
    assert topic == "t.dlq"
    assert sent["similis-attempts"] == b"10"
    assert "similis-retry-round" not in sent


async def test_a_retry_record_waits_until_its_time_but_never_longer_than_ours_would(
    publisher: RememberingPublisher,
) -> None:
    settings = SETTINGS.model_copy(update={"retry_delay_s": 0.15})
    router = Router(settings, "g", publisher, Turns(), now=lambda: NOW)  # type: ignore[arg-type]
    forged = [("similis-group", b"g"), ("similis-not-before-ms", b"99999999999999")]
    began = time.monotonic()
    await router.deliver(record("t.retry", headers=forged), nothing)
    assert 0.14 < time.monotonic() - began < 5


@pytest.mark.parametrize(
    "headers", [[("similis-group", b"g"), ("similis-retry-round", b"many"), ("similis-attempts", b"")]]
)
async def test_headers_that_are_no_numbers_do_no_harm(
    router: Router, publisher: RememberingPublisher, headers: Headers
) -> None:
    await router.deliver(record("t.retry", headers=headers), raising(ArchiveUnavailableError("x")))
    assert publisher.published[0][3]["similis-retry-round"] == b"2"


async def test_a_tombstone_is_no_event(router: Router) -> None:
    await router.deliver(record(value=None), raising(AssertionError("the handler must not see it")))


async def test_a_record_at_the_size_limit_is_dead_lettered_without_its_value(
    router: Router, publisher: RememberingPublisher
) -> None:
    publisher.refuse = [EventTooLargeError("big")]
    await router.deliver(record(value=b"x" * 9), raising(UndecodablePixelsError("bad")))
    [(topic, _, value, headers)] = publisher.published
    assert (topic, value, headers["similis-value-omitted-bytes"]) == ("t.dlq", b"", b"9")


async def test_if_the_dead_letter_is_refused_nothing_is_committed(
    router: Router, publisher: RememberingPublisher
) -> None:
    publisher.refuse = [BrokerUnavailableError("no")]
    delivering = asyncio.create_task(router.deliver(record(), raising(PermanentError("bad"))))
    await asyncio.sleep(0.05)
    assert not delivering.done()  # it pauses, instead of reading the record again at once
    router.pauses.cut()
    with pytest.raises(NackMessage):
        await delivering


async def test_a_pause_between_tries_ends_when_the_partition_is_revoked(publisher: RememberingPublisher) -> None:
    settings = SETTINGS.model_copy(update={"transient_pause_s": 60.0})
    router = Router(settings, "g", publisher, Turns(), now=lambda: NOW)  # type: ignore[arg-type]
    delivering = asyncio.create_task(router.deliver(record(), raising(ArchiveUnavailableError("x"))))
    await asyncio.sleep(0.02)
    router.pauses.cut()
    with pytest.raises(NackMessage):
        await asyncio.wait_for(delivering, 5)
    assert publisher.published == []


async def test_tries_in_place_end_before_the_partition_would_be_taken_away(publisher: RememberingPublisher) -> None:
    settings = SETTINGS.model_copy(update={"transient_attempts": 1000, "max_poll_interval_s": 0.1})
    router = Router(settings, "g", publisher, Turns(), now=lambda: NOW)  # type: ignore[arg-type]
    await asyncio.wait_for(router.deliver(record(), raising(ArchiveUnavailableError("x"))), 5)
    assert publisher.published[0][0] == "t.retry"


async def test_a_cancelled_handler_is_neither_committed_nor_routed(
    router: Router, publisher: RememberingPublisher
) -> None:
    delivering = asyncio.create_task(router.deliver(record(), lambda: asyncio.sleep(60)))
    await asyncio.sleep(0.02)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert publisher.published == []
    assert router.health is not None
    assert not router.health._busy_since


async def test_one_handler_runs_at_a_time(publisher: RememberingPublisher) -> None:
    turn = Turns()
    routers = [Router(SETTINGS, "g", publisher, turn, now=lambda: NOW) for _ in range(2)]  # type: ignore[arg-type]
    running = most = 0

    async def handle() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    await asyncio.gather(*(router.deliver(record(), handle) for router in routers))
    assert most == 1


async def test_as_many_handlers_run_at_once_as_there_are_turns_and_the_last_one_ends_the_work(
    publisher: RememberingPublisher,
) -> None:
    turns, health = Turns(2), Health()
    routers = [Router(SETTINGS, "g", publisher, turns, health, now=lambda: NOW) for _ in range(3)]  # type: ignore[arg-type]
    running: list[int] = []
    busy_after_first: list[bool] = []

    async def handle(seconds: float) -> None:
        running.append(len(health._busy_since))
        await asyncio.sleep(seconds)

    async def deliver(router: Router, seconds: float) -> None:
        await router.deliver(record(), lambda: handle(seconds))
        busy_after_first.append(bool(health._busy_since))

    await asyncio.gather(*(deliver(router, 0.02 * n) for n, router in enumerate(routers, start=1)))
    assert max(running) == 2
    assert busy_after_first == [True, True, False]


async def test_a_handler_at_work_shows_in_the_health(router: Router) -> None:
    assert router.health is not None
    seen: list[bool] = []

    async def handle() -> None:
        assert router.health is not None
        seen.append(bool(router.health._busy_since))

    await router.deliver(record(), handle)
    assert seen == [True]
    assert not router.health._busy_since


async def test_a_cut_pause_stays_cut_while_stopping() -> None:
    pauses = Pauses(stopping=True)
    pauses.cut()
    pauses.resume()
    with pytest.raises(InterruptedPauseError):
        await pauses.wait(0)
    again = Pauses()
    again.cut()
    again.resume()
    await again.wait(0.001)


async def test_a_handler_that_hangs_is_seen_while_another_moves_on(publisher: RememberingPublisher) -> None:
    now = 0.0
    turns, health = Turns(2), Health(stuck_after_s=10.0, clock=lambda: now)
    router = Router(SETTINGS, "g", publisher, turns, health, now=lambda: NOW)  # type: ignore[arg-type]
    hung, moving = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        await hung.wait()

    async def move() -> None:
        await moving.wait()
        await asyncio.to_thread(health.progress, busy=True)
        moving.clear()
        await moving.wait()

    tasks = [asyncio.create_task(router.deliver(record(), handle)) for handle in (hang, move)]
    await asyncio.sleep(0.01)
    now = 9.0
    moving.set()
    await asyncio.sleep(0.1)
    assert health.is_alive()
    now = 11.0
    assert not health.is_alive()
    hung.set()
    await tasks[0]
    assert health.is_alive(), "the one that moved is still at work"
    moving.set()
    await asyncio.gather(*tasks)
    assert not health._busy_since
