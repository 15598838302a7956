"""Delivery over a real Kafka: every way a handler can end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from prometheus_client import REGISTRY

from shared.delivery import EventConsumer, EventPublisher, create_topics
from shared.errors import ArchiveUnavailableError, BrokerUnavailableError, UndecodablePixelsError
from shared.events import StudyReceived
from shared.health import Health
from shared.settings import KafkaSettings
from shared.topics import Topic
from tests.integration.support import PlainRecord, committed, study_received, until

pytestmark = pytest.mark.kafka

Plain = Callable[..., list[PlainRecord]]
Handler = Callable[[StudyReceived], Awaitable[None]]


@pytest.fixture(autouse=True)
async def created(kafka: KafkaSettings, topic: Topic) -> None:
    await create_topics(kafka, [topic])


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[EventPublisher]:
    publisher = EventPublisher(kafka, source="test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@contextlib.asynccontextmanager
async def consuming(kafka: KafkaSettings, topic: Topic, handler: Handler, group: str = "g") -> AsyncIterator[Health]:
    health = Health()
    consumer = EventConsumer(kafka, group=f"{group}-{topic.name}", source="test", health=health)
    consumer.subscribe(topic, StudyReceived, handler)
    await consumer.start()
    try:
        yield health
    finally:
        await consumer.stop()


def outcome(topic: str, group: str, what: str) -> float:
    labels = {"topic": topic, "group": group, "outcome": what}
    return REGISTRY.get_sample_value("similis_events_outcome_total", labels) or 0.0


async def test_an_event_reaches_its_handler_and_its_offset_is_committed(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher
) -> None:
    seen: list[StudyReceived] = []

    async def handler(event: StudyReceived) -> None:
        seen.append(event)

    async with consuming(kafka, topic, handler) as health:
        assert health.checks["kafka"]()
        await publisher.publish(topic.name, study_received(1))
        await until(lambda: outcome(topic.name, f"g-{topic.name}", "processed") == 1)
    assert seen == [study_received(1)]
    assert await committed(kafka, f"g-{topic.name}") == 1


async def test_a_plain_client_reads_a_cloud_event(topic: Topic, publisher: EventPublisher, plain: Plain) -> None:
    await publisher.publish(topic.name, study_received(7))
    [record] = await asyncio.to_thread(plain, topic.name, 1)
    event = study_received(7)
    assert record.key == event.study_instance_uid.encode()
    assert json.loads(record.value or b"")["manifest_key"] == event.manifest_key
    headers = {name: raw.decode() for name, raw in record.headers.items()}
    assert headers == {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": str(event.event_id),
        "ce_source": "urn:similis:test",
        "ce_type": "similis.study.received.v1",
        "ce_subject": event.study_instance_uid,
        "ce_time": "2026-01-02T03:04:05+00:00",
        "ce_dataschema": "urn:similis:schema:similis.study.received.v1",
    }


async def test_a_permanent_error_dead_letters_at_once_and_the_rest_goes_on(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher, plain: Plain
) -> None:
    tries: list[str] = []

    async def handler(event: StudyReceived) -> None:
        tries.append(event.study_instance_uid)
        if event == study_received(1):
            raise UndecodablePixelsError("truncated stream")

    async with consuming(kafka, topic, handler):
        await publisher.publish(topic.name, study_received(1))
        await publisher.publish(topic.name, study_received(2))
        await until(lambda: len(tries) == 2)
        [record] = await asyncio.to_thread(plain, topic.dlq, 1)
    assert record.key == study_received(1).key
    assert json.loads(record.value or b"")["study_instance_uid"] == study_received(1).study_instance_uid
    assert record.headers["similis-error-class"] == b"UndecodablePixelsError"
    assert record.headers["similis-error-message"] == b"truncated stream"
    assert record.headers["similis-original-topic"] == topic.name.encode()
    assert record.headers["similis-original-offset"] == b"0"
    assert record.headers["similis-attempts"] == b"1"
    assert record.headers["ce_id"] == str(study_received(1).event_id).encode()
    assert await committed(kafka, f"g-{topic.name}") == 2


async def test_malformed_and_foreign_records_are_dead_lettered_and_block_nothing(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher, plain: Plain
) -> None:
    seen: list[StudyReceived] = []

    async def handler(event: StudyReceived) -> None:
        seen.append(event)

    good = study_received(5)
    foreign = [("ce_type", b"com.example.other.v1")]
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    for value, key, headers in (
        (b"{not json", b"k", []),
        (b'{"study_instance_uid": "not-a-uid"}', None, []),
        (b"\xff\xfe\x00", None, [("binary", b"\xff\x00\xfe"), ("empty", b"")]),
        (good.model_dump_json().encode(), None, foreign),
    ):
        await producer.send_and_wait(topic.name, value=value, key=key, headers=headers, partition=0)
    await producer.send_and_wait(topic.name, value=None, key=b"tombstone", partition=0)
    await producer.send_and_wait(topic.name, value=good.model_dump_json().encode(), partition=0)
    await producer.stop()

    async with consuming(kafka, topic, handler):
        await until(lambda: seen == [good])
        records = await asyncio.to_thread(plain, topic.dlq, 4)
    assert [record.value for record in records[:3]] == [
        b"{not json",
        b'{"study_instance_uid": "not-a-uid"}',
        b"\xff\xfe\x00",
    ]
    assert {record.headers["similis-error-class"] for record in records} == {b"MalformedEventError"}
    assert records[2].headers["binary"] == b"\xff\x00\xfe"
    assert b"not-a-uid" not in records[1].headers["similis-error-message"]
    assert [record.key for record in records] == [b"k", None, None, None]
    assert outcome(topic.name, f"g-{topic.name}", "skipped") == 1
    assert outcome(topic.name, f"g-{topic.name}", "returned") == 0


async def test_a_transient_error_is_tried_again_in_place(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher
) -> None:
    tries = 0

    async def handler(event: StudyReceived) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ArchiveUnavailableError("busy")

    async with consuming(kafka, topic, handler):
        await publisher.publish(topic.name, study_received(1))
        await until(lambda: outcome(topic.name, f"g-{topic.name}", "processed") == 1)
    assert tries == 2


async def test_a_longer_transient_error_waits_on_the_retry_topic_and_is_not_dead_lettered(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher, plain: Plain
) -> None:
    tries: list[str] = []
    done: list[str] = []

    async def handler(event: StudyReceived) -> None:
        tries.append(event.study_instance_uid)
        if event == study_received(1) and tries.count(event.study_instance_uid) <= 3:
            raise ArchiveUnavailableError("still busy")
        done.append(event.study_instance_uid)

    async with consuming(kafka, topic, handler):
        await publisher.publish(topic.name, study_received(1))
        await publisher.publish(topic.name, study_received(2))
        await until(lambda: len(done) == 2)
        await until(lambda: outcome(topic.retry, f"g-{topic.name}", "processed") == 1)
        retried = await asyncio.to_thread(plain, topic.retry, 2, 3.0)
        dead = await asyncio.to_thread(plain, topic.dlq, 1, 1.0)
    assert done == [study_received(2).study_instance_uid, study_received(1).study_instance_uid]
    assert dead == []
    assert [record.headers["similis-retry-round"] for record in retried] == [b"1"]
    assert retried[0].headers["similis-error-class"] == b"ArchiveUnavailableError"


async def test_what_never_recovers_is_dead_lettered_after_the_last_round(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher, plain: Plain
) -> None:
    tries = 0

    async def handler(_: StudyReceived) -> None:
        nonlocal tries
        tries += 1
        raise ArchiveUnavailableError("gone")

    async with consuming(kafka, topic, handler):
        await publisher.publish(topic.name, study_received(1))
        [record] = await asyncio.to_thread(plain, topic.dlq, 1)
    assert tries == kafka.transient_attempts * (1 + kafka.retry_rounds)
    assert record.headers["similis-attempts"] == str(tries).encode()
    assert record.headers["similis-original-topic"] == topic.name.encode()


async def test_an_unexpected_error_is_tried_again_then_dead_lettered(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher, plain: Plain
) -> None:
    tries = 0

    async def handler(_: StudyReceived) -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError("a bug")

    async with consuming(kafka, topic, handler):
        await publisher.publish(topic.name, study_received(1))
        [record] = await asyncio.to_thread(plain, topic.dlq, 1)
    assert tries == kafka.transient_attempts
    assert record.headers["similis-error-class"] == b"ZeroDivisionError"


async def test_a_record_another_group_retries_is_left_to_it(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher
) -> None:
    ours: list[StudyReceived] = []
    theirs: list[StudyReceived] = []

    async def failing_once(event: StudyReceived) -> None:
        ours.append(event)
        if len(ours) <= kafka.transient_attempts:
            raise ArchiveUnavailableError("busy")

    async def content(event: StudyReceived) -> None:
        theirs.append(event)

    async with consuming(kafka, topic, failing_once), consuming(kafka, topic, content, group="other"):
        await publisher.publish(topic.name, study_received(1))
        await until(lambda: len(ours) == kafka.transient_attempts + 1)
        await until(lambda: outcome(topic.retry, f"other-{topic.name}", "skipped") == 1)
    assert len(theirs) == 1


async def test_a_dead_letter_that_cannot_be_written_commits_nothing(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_record = EventPublisher.publish_record
    refused = 0

    async def unavailable(self: EventPublisher, name: str, **record: object) -> None:
        nonlocal refused
        if name == topic.dlq and refused < 2:
            refused += 1
            raise BrokerUnavailableError("no")
        await publish_record(self, name, **record)  # type: ignore[arg-type]

    monkeypatch.setattr(EventPublisher, "publish_record", unavailable)
    tries = 0

    async def handler(_: StudyReceived) -> None:
        nonlocal tries
        tries += 1
        raise UndecodablePixelsError("bad")

    async with consuming(kafka, topic, handler):
        await publisher.publish(topic.name, study_received(1))
        await until(lambda: refused == 1)
        assert await committed(kafka, f"g-{topic.name}") == 0
        await until(lambda: outcome(topic.name, f"g-{topic.name}", "dead-lettered") == 1)
    assert tries == 3
    assert await committed(kafka, f"g-{topic.name}") == 1


async def test_stop_finishes_the_record_in_hand_and_commits_it(
    kafka: KafkaSettings, topic: Topic, publisher: EventPublisher
) -> None:
    begun = asyncio.Event()
    done: list[StudyReceived] = []

    async def handler(event: StudyReceived) -> None:
        begun.set()
        await asyncio.sleep(0.7)
        done.append(event)

    await publisher.publish(topic.name, study_received(1))
    await publisher.publish(topic.name, study_received(2))
    async with consuming(kafka, topic, handler):
        await asyncio.wait_for(begun.wait(), 60)
    assert len(done) == 1
    assert await committed(kafka, f"g-{topic.name}") == 1


async def test_creating_topics_twice_changes_nothing_and_a_mismatch_is_reported(
    kafka: KafkaSettings, topic: Topic
) -> None:
    again = await create_topics(kafka, [topic])
    assert again.created == ()
    assert set(again.existing) == {topic.name, topic.retry, topic.dlq}
    other = Topic(topic.name, topic.event, partitions=9)
    report = await create_topics(kafka, [other])
    assert report.mismatched[topic.name] == "has 2 partitions, 9 are declared"


async def test_a_topic_nobody_declared_does_not_come_to_be(kafka: KafkaSettings) -> None:
    impatient = kafka.model_copy(update={"send_timeout_s": 1.0})
    publisher = EventPublisher(impatient, source="test")
    await publisher.start()
    with pytest.raises(BrokerUnavailableError):
        await publisher.publish("test.undeclared.v1", study_received(1))
    await publisher.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    assert "test.undeclared.v1" not in await admin.list_topics()
    await admin.close()
