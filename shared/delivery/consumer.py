"""Consuming: FastStream subscribers, one on the topics and one on their retry topics.

FastStream's default policy commits before the handler runs. Here every subscriber says
NACK_ON_ERROR: the offset is committed after success only, and `routing` leaves no error unrouted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from shared.delivery.cloudevents import from_record
from shared.delivery.connection import bootstrap_servers, client_options, security
from shared.delivery.publisher import EventPublisher
from shared.delivery.routing import FailureRouting, Pauses, Router, Turns
from shared.events import Event
from shared.health import Health
from shared.settings import KafkaSettings
from shared.topics import Topic

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord, TopicPartition
    from faststream.message import StreamMessage

log = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)

RETRY_GROUP_SUFFIX: Final = ".retry"
LONGEST_CONNECT_PAUSE_S: Final = 10.0

# FastStream reports every record at INFO and each subscriber's start at WARNING; `routing` logs what counts.
_faststream_log = logging.getLogger("shared.delivery.faststream")


@dataclass(slots=True)
class _Subscription:
    """Topics whose records are the same event for the same handler."""

    event: type[Event]
    handler: Callable[[Any], Awaitable[None]]
    topics: list[Topic] = field(default_factory=list)


class EventConsumer:
    """Hands each event to its handler, at least once and `at_once` at a time.

    The group reads the topics, the group `<group>.retry` their retry topics. Records of one study
    arrive in order, except that one that waits on the retry topic is overtaken. What becomes of a
    record whose handler raises is told in `shared.delivery.routing`.

    More than one at a time means that many members of the group in this process: each has partitions
    and offsets of its own and still takes one record after the other, so that no offset is committed
    before its record is done, and a study's records, which share a partition, stay in order.
    """

    def __init__(
        self, kafka: KafkaSettings, *, group: str, source: str, health: Health | None = None, at_once: int = 1
    ) -> None:
        self._kafka = kafka
        self._group = group
        self._source = source
        self._health = health
        self._publisher = EventPublisher(kafka, source=source)
        self._subscriptions: list[_Subscription] = []
        self._at_once = at_once
        self._turn = Turns(at_once)
        self._pauses: list[Pauses] = []
        self._brokers: list[KafkaBroker] = []
        self._connecting: asyncio.Task[None] | None = None
        self._connected = False

    def subscribe(self, topic: Topic, event: type[E], handler: Callable[[E], Awaitable[None]]) -> None:
        """Hand the events on `topic`, and on its retry topic, to `handler`. Before `start`.

        The handler may take minutes if it leaves the event loop free (`asyncio.to_thread`). It may
        see an event twice.
        """
        for subscription in self._subscriptions:
            if subscription.event is event and subscription.handler == handler:
                subscription.topics.append(topic)
                return
        self._subscriptions.append(_Subscription(event, handler, [topic]))

    async def start(self) -> None:
        """Join the group.

        Waits up to `send_timeout_s`; where the broker or a topic is not there yet, joining goes on in
        the background and the check `kafka` of `health` fails until then.

        Raises:
            ConfigurationError: the Kafka settings are incomplete.
        """
        client_options(self._kafka)
        _faststream_log.setLevel(logging.ERROR)
        if self._health is not None:
            self._health.checks["kafka"] = lambda: self._connected
        self._connecting = asyncio.create_task(self._connect())
        done, _ = await asyncio.wait({self._connecting}, timeout=self._kafka.send_timeout_s)
        if done:
            self._connecting.result()

    async def stop(self) -> None:
        """Finish the record in hand, within `stop_timeout_s`, commit it and leave the group."""
        self._connected = False
        for pauses in self._pauses:
            pauses.stopping = True
            pauses.cut()
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        await self._disconnect()
        await self._publisher.stop()

    async def _connect(self) -> None:
        pause_s = 0.5
        while True:
            self._brokers = [
                self._broker(subscription, retry=retry)
                for subscription in self._subscriptions
                for retry in (*[False] * self._at_once, True)
            ]
            try:
                # Together, since each may wait for a killed predecessor's session to run out.
                async with asyncio.TaskGroup() as joining:
                    for broker in self._brokers:
                        joining.create_task(broker.start())
            except* (KafkaError, OSError, TimeoutError) as group:
                log.warning("Kafka at %s: not joined yet: %r", self._kafka.bootstrap, group.exceptions[0])
            else:
                self._connected = True
                log.info("joined %s, reading %s", self._group, ", ".join(self._topic_names()))
                return
            await self._disconnect()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_CONNECT_PAUSE_S)

    async def _disconnect(self) -> None:
        brokers, self._brokers = self._brokers, []
        for error in await asyncio.gather(*(broker.stop() for broker in brokers), return_exceptions=True):
            if isinstance(error, Exception):
                log.warning("leaving Kafka: %r", error)

    def _broker(self, subscription: _Subscription, *, retry: bool) -> KafkaBroker:
        kafka = self._kafka
        router = Router(kafka, self._group, self._publisher, self._turn, self._health)
        self._pauses.append(router.pauses)
        listener = _FinishBeforeRevoke(router.pauses)
        # A turn may have to wait for the other subscriber's handler, and tries in place add up to
        # one and a half of the longest handler: routing._try.
        longest_ms = int(1000 * (3 * kafka.max_poll_interval_s + kafka.retry_delay_s))
        broker = KafkaBroker(
            bootstrap_servers(kafka),
            security=security(kafka),
            client_id=f"similis-{self._source}",
            consumer_only=True,
            allow_auto_create_topics=False,
            metadata_max_age_ms=30_000,
            request_timeout_ms=int(kafka.send_timeout_s * 1000),
            graceful_timeout=kafka.stop_timeout_s,
            middlewares=[partial(FailureRouting, router)],
            apply_types=False,
            logger=_faststream_log,
        )
        subscriber = broker.subscriber(
            *(topic.retry if retry else topic.name for topic in subscription.topics),
            group_id=self._group + (RETRY_GROUP_SUFFIX if retry else ""),
            ack_policy=AckPolicy.NACK_ON_ERROR,
            auto_offset_reset="earliest",
            session_timeout_ms=int(kafka.session_timeout_s * 1000),
            heartbeat_interval_ms=int(kafka.session_timeout_s * 1000 / 4),
            max_poll_interval_ms=longest_ms,
            rebalance_timeout_ms=longest_ms,
            max_partition_fetch_bytes=kafka.max_event_bytes,
            listener=listener,
            parser=_parse,
            decoder=partial(_decode, subscription.event),
            no_reply=True,
        )
        subscriber(subscription.handler)
        listener.wait_idle = lambda: subscriber.lock.wait_release(longest_ms / 1000)  # type: ignore[attr-defined]
        return broker

    def _topic_names(self) -> list[str]:
        return [topic.name for subscription in self._subscriptions for topic in subscription.topics]


class _FinishBeforeRevoke(ConsumerRebalanceListener):  # type: ignore[misc]
    """Gives partitions away only once the record in hand is done and committed.

    Without this, two workers would work on the same record after each rebalance.
    """

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self.wait_idle: Callable[[], Awaitable[None]] = _nothing

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._pauses.cut()
        await self.wait_idle()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._pauses.resume()


async def _nothing() -> None:
    return


async def _parse(
    record: ConsumerRecord[Any, Any], original: Callable[[Any], Awaitable[StreamMessage[Any]]]
) -> StreamMessage[Any]:
    """A record as FastStream's message, whatever its headers hold.

    FastStream's own parser raises on headers that are not UTF-8, and an error before the handler
    would be read again for ever.
    """
    readable = tuple((name, (raw or b"").decode(errors="replace").encode()) for name, raw in record.headers)
    message = await original(replace(record, headers=readable))
    message.raw_message = record
    return message


async def _decode(event: type[Event], message: StreamMessage[Any]) -> Event:
    return from_record(event, message.body, message.raw_message.headers)
