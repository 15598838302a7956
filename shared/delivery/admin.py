"""Topics: created before anyone needs them, since automatic creation is off."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.delivery.connection import client_options
from shared.errors import BrokerUnavailableError, ConfigurationError
from shared.settings import KafkaSettings
from shared.topics import DAY_MS, Topic

log = logging.getLogger(__name__)

DEAD_LETTER_RETENTION_MS: Final = 90 * DAY_MS


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What `create_topics` found and did, by topic name."""

    created: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
    mismatched: dict[str, str] = field(default_factory=dict)
    """Topics that exist with other partitions than declared, and how. They are left alone: adding
    partitions would move studies to other partitions, out of order."""


async def create_topics(kafka: KafkaSettings, topics: Iterable[Topic]) -> TopicReport:
    """Create each topic, its retry topic and its dead-letter topic, unless they exist.

    Returns once every one of them has a leader.

    Raises:
        BrokerUnavailableError: the broker did not answer within `send_timeout_s`.
        ConfigurationError: the broker refuses a topic.
    """
    wanted = {new.name: new for topic in topics for new in _new_topics(kafka, topic)}
    try:
        admin = AIOKafkaAdminClient(
            **client_options(kafka),
            client_id="similis-admin",
            request_timeout_ms=int(kafka.send_timeout_s * 1000),
        )
        await admin.start()
        try:
            return await _create(admin, wanted, kafka.send_timeout_s)
        finally:
            await admin.close()
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailableError(f"cannot create topics at {kafka.bootstrap}: {error!r}") from error


def _new_topics(kafka: KafkaSettings, topic: Topic) -> Iterable[NewTopic]:
    def new(name: str, partitions: int, retention_ms: int) -> NewTopic:
        return NewTopic(
            name,
            partitions,
            kafka.replication_factor,
            topic_configs={
                "cleanup.policy": "delete",
                "retention.ms": str(retention_ms),
                "max.message.bytes": str(kafka.max_event_bytes),
                "min.insync.replicas": str(max(1, kafka.replication_factor - 1)),
            },
        )

    kept = topic.retention_ms
    yield new(topic.name, topic.partitions, kept)
    yield new(topic.retry, topic.partitions, kept)
    yield new(topic.dlq, 1, -1 if kept < 0 else max(kept, DEAD_LETTER_RETENTION_MS))


async def _create(admin: AIOKafkaAdminClient, wanted: dict[str, NewTopic], timeout_s: float) -> TopicReport:
    found = await _partitions(admin)
    missing = [new for name, new in wanted.items() if name not in found]
    if missing:
        answer = await admin.create_topics(missing)
        for name, code, *rest in answer.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                why = rest[0] if rest and rest[0] else error.__name__
                raise ConfigurationError(f"the broker refuses the topic {name}: {why}")
        deadline = time.monotonic() + timeout_s
        while not wanted.keys() <= (await _partitions(admin)).keys():
            if time.monotonic() > deadline:
                raise TimeoutError("new topics have no leader yet")
            await asyncio.sleep(0.1)
    mismatched = {
        name: f"has {found[name]} partitions, {new.num_partitions} are declared"
        for name, new in wanted.items()
        if name in found and found[name] != new.num_partitions
    }
    for name, how in mismatched.items():
        log.warning("topic %s %s; left as it is", name, how)
    created = tuple(new.name for new in missing)
    return TopicReport(created, tuple(name for name in wanted if name in found), mismatched)


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Topics whose partitions all have a leader, with their number of partitions."""
    # All topics are asked for: naming one would create it where the broker does so automatically.
    described: list[dict[str, Any]] = await admin.describe_topics()
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in described
        if topic["error_code"] == 0 and all(part["leader"] >= 0 for part in topic["partitions"])
    }
