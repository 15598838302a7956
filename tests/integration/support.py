"""What the integration tests share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import Consumer, KafkaException

from shared.events import StudyReceived
from shared.settings import KafkaSettings


def kafka_settings(bootstrap: str, **changes: object) -> KafkaSettings:
    quick: dict[str, object] = {
        "bootstrap": bootstrap,
        "session_timeout_s": 2.0,
        "send_timeout_s": 15.0,
        "transient_attempts": 2,
        "transient_pause_s": 0.05,
        "retry_delay_s": 0.3,
        "retry_rounds": 2,
        "stop_timeout_s": 5.0,
    }
    return KafkaSettings.model_validate(quick | changes)


def study_received(number: int) -> StudyReceived:
    uid = f"1.2.826.0.1.3680043.10.543.{number}"
    return StudyReceived(
        event_id=StudyReceived.identify(uid, 1),
        occurred_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        study_instance_uid=uid,
        revision=1,
        manifest_key=f"studies/{uid}/1/manifest.json",
        patient_pseudonyms=("p-1",),
        mixed_patients=False,
        modalities=("MR",),
        instance_count=3,
        new_instance_count=3,
        frame_count=3,
    )


@dataclass
class PlainRecord:
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes] = field(default_factory=dict)
    partition: int = 0


def read_plain(bootstrap: str, topic: str, count: int, timeout_s: float = 60.0) -> list[PlainRecord]:
    """The first `count` records of `topic`, by a client that knows nothing of Similis; fewer if they do not come."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"plain-{uuid.uuid4().hex}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    records: list[PlainRecord] = []
    try:
        consumer.subscribe([topic])
        polls = int(timeout_s / 0.2)
        while len(records) < count and polls > 0:
            polls -= 1
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error() is not None:
                raise KafkaException(message.error())
            records.append(
                PlainRecord(message.key(), message.value(), dict(message.headers() or []), message.partition() or 0)
            )
    finally:
        consumer.close()
    return records


async def committed(kafka: KafkaSettings, group: str) -> int:
    """The sum of the group's committed offsets."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
        return sum(entry.offset for entry in offsets.values() if entry.offset > 0)
    finally:
        await admin.close()


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
