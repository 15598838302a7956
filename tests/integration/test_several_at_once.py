"""Two events at a time in one process, against a real broker: order and offsets stay each partition's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.delivery import EventConsumer, EventPublisher, create_topics
from shared.events import StudyReceived
from shared.settings import KafkaSettings
from shared.topics import Topic
from tests.integration.support import committed, study_received, until

pytestmark = pytest.mark.kafka

Handler = Callable[[StudyReceived], Awaitable[None]]

STUDIES = 10


def revision_of(number: int, revision: int) -> StudyReceived:
    event = study_received(number)
    identity = StudyReceived.identify(event.study_instance_uid, revision)
    return event.model_copy(update={"revision": revision, "event_id": identity})


@contextlib.asynccontextmanager
async def consuming_two(kafka: KafkaSettings, topic: Topic, handler: Handler) -> AsyncIterator[None]:
    consumer = EventConsumer(kafka, group=f"two-{topic.name}", source="test", at_once=2)
    consumer.subscribe(topic, StudyReceived, handler)
    await consumer.start()
    try:
        yield
    finally:
        await consumer.stop()


@pytest.fixture
async def published(kafka: KafkaSettings, topic: Topic) -> list[StudyReceived]:
    """Three revisions of each study, on a topic of two partitions."""
    await create_topics(kafka, [topic])
    events = [revision_of(number, revision) for revision in (1, 2, 3) for number in range(STUDIES)]
    publisher = EventPublisher(kafka, source="test")
    await publisher.start()
    for event in events:
        await publisher.publish(topic.name, event)
    await publisher.stop()
    return events


async def test_two_studies_run_at_once_and_each_keeps_its_order(
    kafka: KafkaSettings, topic: Topic, published: list[StudyReceived]
) -> None:
    running: set[str] = set()
    most = 0
    seen: dict[str, list[int]] = {}

    async def handler(event: StudyReceived) -> None:
        nonlocal most
        assert event.study_instance_uid not in running
        running.add(event.study_instance_uid)
        most = max(most, len(running))
        await asyncio.sleep(0.02)
        running.remove(event.study_instance_uid)
        seen.setdefault(event.study_instance_uid, []).append(event.revision)

    async with consuming_two(kafka, topic, handler):
        await until(lambda: sum(map(len, seen.values())) == len(published))
    assert most == 2
    assert list(seen.values()) == [[1, 2, 3]] * STUDIES
    assert await committed(kafka, f"two-{topic.name}") == len(published)


async def test_an_event_that_is_not_done_is_not_committed_by_the_others(
    kafka: KafkaSettings, topic: Topic, published: list[StudyReceived]
) -> None:
    impatient = kafka.model_copy(update={"stop_timeout_s": 1.0})
    done: Counter[str] = Counter()
    stuck: list[StudyReceived] = []
    running = 0

    async def handler(event: StudyReceived) -> None:
        nonlocal running
        running += 1
        try:
            # only once both members of the group have a partition: a member that is busy delays the other's joining
            if not stuck and running == 2:
                stuck.append(event)
                await asyncio.sleep(600)
            await asyncio.sleep(0.02)
        finally:
            running -= 1
        done[str(event.event_id)] += 1

    async with consuming_two(impatient, topic, handler):
        await until(lambda: len(stuck) > 0)
        await asyncio.sleep(1.5)  # the other partition runs dry
    first_round = sum(done.values())
    assert 0 < first_round < len(published)
    assert await committed(kafka, f"two-{topic.name}") == first_round
    async with consuming_two(kafka, topic, handler):
        await until(lambda: len(done) == len(published))
    assert set(done.values()) == {1}
    assert done[str(stuck[0].event_id)] == 1
