"""Follows the topics as any subscriber would: a plain Kafka client, from the first record on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer

Record = dict[str, Any]


@dataclass(slots=True)
class Followed:
    """What the topics have said so far, the newest revision of each study."""

    diagnosed: dict[str, Record] = field(default_factory=dict)
    explained: dict[str, Record] = field(default_factory=dict)
    dead: list[Record] = field(default_factory=list)

    def take(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Note one record. A dead letter may hold anything, so only its key is read."""
        if topic.endswith(".dlq"):
            self.dead.append({"topic": topic, "key": (key or b"").decode("utf-8", "replace")})
            return
        record = json.loads(value)
        study = record["study_instance_uid"]
        if topic.startswith("similis.diagnosis."):
            _keep_newest(self.diagnosed, study, record)
        elif topic.startswith("similis.study.explained."):
            _keep_newest(self.explained, study, record)

    def is_finding(self, study: str) -> bool:
        """Whether `study` was diagnosed with a finding."""
        return self.diagnosed.get(study, {}).get("decision") == "finding"

    def is_explained(self, study: str) -> bool:
        """Whether the diagnosis of `study`, a finding, has its maps."""
        explanation = self.explained.get(study)
        return explanation is not None and explanation["revision"] >= self.diagnosed[study]["revision"]

    def is_done(self, study: str) -> bool:
        """Whether nothing more is to come of `study`: diagnosed and, if a finding, explained; or dead-lettered."""
        if any(dead["key"] == study for dead in self.dead):
            return True
        return study in self.diagnosed and (not self.is_finding(study) or self.is_explained(study))


async def follow(bootstrap: str, topics: Sequence[str], followed: Followed, on_record: Callable[[], None]) -> None:
    """Read `topics` until cancelled."""
    consumer = AIOKafkaConsumer(
        *topics, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        async for message in consumer:
            if message.value is not None:
                followed.take(message.topic, message.key, message.value)
                on_record()
    except asyncio.CancelledError:
        pass
    finally:
        await consumer.stop()


def _keep_newest(records: dict[str, Record], study: str, record: Record) -> None:
    known = records.get(study)
    if known is None or record["revision"] >= known["revision"]:
        records[study] = record
