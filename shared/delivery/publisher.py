"""Publishing: a record is out when every in-sync replica has it, and not before."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError

from shared.delivery import metrics
from shared.delivery.cloudevents import Headers, to_record
from shared.delivery.connection import client_options
from shared.errors import BrokerUnavailableError, EventTooLargeError
from shared.events import Event
from shared.settings import KafkaSettings

log = logging.getLogger(__name__)


class EventPublisher:
    """Publishes events; safe for many tasks of one event loop.

    It speaks to aiokafka's producer itself, since FastStream's takes text headers only and a dead
    letter must keep its headers byte for byte. The producer is not idempotent: that one may fail
    every send after a broker was killed (aiokafka #1017), and event ids are deterministic, so a
    repeat is recognised anyway. After any failure a fresh producer is built.
    """

    def __init__(self, kafka: KafkaSettings, *, source: str) -> None:
        self._kafka = kafka
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._discarding: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect. A broker that is not there yet is no error: `publish` connects when it can.

        Raises:
            ConfigurationError: the Kafka settings are incomplete.
        """
        client_options(self._kafka)
        try:
            async with asyncio.timeout(self._kafka.send_timeout_s):
                await self._connected()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("Kafka does not answer yet at %s: %s", self._kafka.bootstrap, _describe(error))

    async def stop(self) -> None:
        """Close the connection; what was published is out already."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._close(producer)
        await asyncio.gather(*self._discarding)

    async def publish(self, topic: str, event: Event) -> None:
        """Publish `event` as a CloudEvent, keyed by its study.

        Success means that every in-sync replica has it. After an error it may be there or not, so
        publish it again.

        Raises:
            BrokerUnavailableError: no acknowledgement within `send_timeout_s`.
            EventTooLargeError: it is larger than `max_event_bytes`.
        """
        key, value, headers = to_record(event, self._source)
        await self.publish_record(topic, key=key, value=value, headers=headers)

    async def publish_record(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Publish a record as it is. Raises as `publish`."""
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(self._kafka.send_timeout_s):
                producer = await self._connected()
                if key is None and value is None:
                    value = b""  # aiokafka wants one of them
                await producer.send_and_wait(topic, value=value, key=key, headers=headers)
        except (MessageSizeTooLargeError, RecordTooLargeError) as error:
            metrics.PUBLISH_FAILURES.labels(topic, type(error).__name__).inc()
            raise EventTooLargeError(f"an event for {topic} is larger than the broker takes") from error
        except (KafkaError, OSError, TimeoutError) as error:
            metrics.PUBLISH_FAILURES.labels(topic, type(error).__name__).inc()
            self._discard(producer)
            raise BrokerUnavailableError(f"{topic}: not acknowledged: {_describe(error)}") from error
        except asyncio.CancelledError:
            raise
        metrics.PUBLISHED.labels(topic).inc()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **client_options(self._kafka),
                    client_id=f"similis-{self._source}",
                    acks="all",
                    enable_idempotence=False,
                    compression_type="gzip",
                    max_request_size=self._kafka.max_event_bytes,
                    request_timeout_ms=int(self._kafka.send_timeout_s * 1000),
                )
                try:
                    await producer.start()
                except BaseException:
                    await self._close(producer)
                    raise
                self._producer = producer
            return self._producer

    def _discard(self, producer: AIOKafkaProducer | None) -> None:
        """Forget a producer that failed; the next publish builds another."""
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        task = asyncio.create_task(self._close(producer))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    @staticmethod
    async def _close(producer: AIOKafkaProducer) -> None:
        # Waiting for batches that a dead broker never takes would hang.
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                await producer.stop()


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
