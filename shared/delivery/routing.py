"""What becomes of a record: processed, tried again, put on the retry topic, or dead-lettered.

    the handler ...          then
    returns                  the offset is committed
    TransientError           tried again in place, `transient_attempts` times with growing pauses; then
                             <topic>.retry, `retry_rounds` times, `retry_delay_s` apart; then <topic>.dlq
    PermanentError           <topic>.dlq at once; a record that is no such event counts as one
    any other exception      tried again in place, then <topic>.dlq: it is most likely a bug
    is cancelled, killed     nothing is committed: the record is read again

Whatever was put elsewhere is committed only after the broker has acknowledged it there. If it does
not, nothing is committed and the record is read again after a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from faststream import BaseMiddleware
from faststream.exceptions import NackMessage

from shared.delivery import metrics
from shared.delivery.cloudevents import Headers
from shared.delivery.publisher import EventPublisher
from shared.errors import EventTooLargeError, PermanentError, PipelineError, SimilisError, TransientError
from shared.health import Health
from shared.settings import KafkaSettings
from shared.unforeseen import path_of, told

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord
    from faststream import ContextRepo
    from faststream.message import StreamMessage

log = logging.getLogger(__name__)

PREFIX: Final = "similis-"
GROUP: Final = "similis-group"  # the consumer group that shall try the record again
ROUND: Final = "similis-retry-round"
NOT_BEFORE: Final = "similis-not-before-ms"
ATTEMPTS: Final = "similis-attempts"
ERROR_CLASS: Final = "similis-error-class"
ERROR_MESSAGE: Final = "similis-error-message"
ORIGINAL_TOPIC: Final = "similis-original-topic"
ORIGINAL_PARTITION: Final = "similis-original-partition"
ORIGINAL_OFFSET: Final = "similis-original-offset"
FAILED_AT: Final = "similis-failed-at"
VALUE_OMITTED: Final = "similis-value-omitted-bytes"

LONGEST_PAUSE_S: Final = 30.0
LONGEST_MESSAGE: Final = 500  # characters of an error's message in a header


class InterruptedPauseError(Exception):
    """A pause was cut short: the partition goes to another worker, or this one stops."""


@dataclass(slots=True)
class Pauses:
    """Waiting that can be cut short."""

    _cut: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False

    def cut(self) -> None:
        """End every pause now, and let none begin until `resume`."""
        self._cut.set()

    def resume(self) -> None:
        """Allow pauses again, unless the process is stopping."""
        if not self.stopping:
            self._cut.clear()

    async def wait(self, seconds: float) -> None:
        """Wait.

        Raises:
            InterruptedPauseError: the pause was cut short.
        """
        if seconds <= 0 and not self._cut.is_set():
            return
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._cut.wait()
        except TimeoutError:
            return
        raise InterruptedPauseError


class Turns:
    """So many handlers run at once in a process; the others wait their turn. A context manager."""

    def __init__(self, at_once: int = 1) -> None:
        """All turns are free."""
        self._free = asyncio.Semaphore(at_once)

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._free.release()


@dataclass(slots=True)
class Router:
    """Runs a handler on one record and puts the record where it belongs.

    `turn` is shared by all routers of a process: it bounds the memory that handlers take together.
    """

    kafka: KafkaSettings
    group: str
    publisher: EventPublisher
    turn: Turns
    health: Health | None = None
    pauses: Pauses = field(default_factory=Pauses)
    now: Callable[[], float] = time.time
    _routing_failures: int = 0

    async def deliver(self, record: ConsumerRecord[Any, Any], handle: Callable[[], Awaitable[Any]]) -> None:
        """Return once the record's offset may be committed.

        Raises:
            NackMessage: it must not be committed; read the record again.
        """
        metrics.CONSUMED.labels(record.topic, self.group).inc()
        try:
            outcome = await self._outcome(record, handle)
        except InterruptedPauseError:
            self._count(record, "returned")
            raise NackMessage from None
        except PipelineError as error:  # of the publisher
            self._count(record, "returned")
            await self._pause_after_routing_failure(record, error)
            raise NackMessage from error
        self._routing_failures = 0
        self._count(record, outcome)

    async def _outcome(self, record: ConsumerRecord[Any, Any], handle: Callable[[], Awaitable[Any]]) -> str:
        origin = _Origin.of(record)
        if record.value is None or (origin.round > 0 and origin.group != self.group):
            # A tombstone erases older records of its key and is no event; and on a retry topic lie
            # the records of every group that reads the topic.
            return "skipped"
        # A record from elsewhere may name any time: wait no longer than for one of our own.
        await self.pauses.wait(min(origin.not_before_s - self.now(), self.kafka.retry_delay_s))
        error, attempts = await self._try(record, handle)
        if error is None:
            return "processed"
        origin.attempts += attempts
        if isinstance(error, TransientError) and origin.round < self.kafka.retry_rounds:
            await self._retry(record, origin, error)
            return "retried"
        await self._dead_letter(record, origin, error)
        return "dead-lettered"

    async def _try(
        self, record: ConsumerRecord[Any, Any], handle: Callable[[], Awaitable[Any]]
    ) -> tuple[Exception | None, int]:
        """The error that remains, if any, and the number of tries."""
        started = time.monotonic()
        pause_s = self.kafka.transient_pause_s
        attempt = 0
        while True:
            attempt += 1
            error = await self._try_once(record, handle)
            if error is None or isinstance(error, PermanentError):
                return error, attempt
            spent_s = time.monotonic() - started
            if attempt >= self.kafka.transient_attempts or spent_s > self.kafka.max_poll_interval_s / 2:
                return error, attempt
            await self.pauses.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _try_once(
        self, record: ConsumerRecord[Any, Any], handle: Callable[[], Awaitable[Any]]
    ) -> Exception | None:
        async with self.turn:
            started = time.perf_counter()
            try:
                with self.health.work() if self.health is not None else contextlib.nullcontext():
                    await handle()
            except Exception as error:  # noqa: BLE001  (whatever it is, the record goes somewhere)
                metrics.FAILED_TRIES.labels(record.topic, type(error).__name__).inc()
                expected = isinstance(error, PipelineError)
                path = "" if expected else f"\n{path_of(error)}"
                log.warning("%s: %s%s", _name(record), _describe(error), path)
                return error
            finally:
                metrics.HANDLER_SECONDS.labels(record.topic).observe(time.perf_counter() - started)
        return None

    async def _retry(self, record: ConsumerRecord[Any, Any], origin: _Origin, error: Exception) -> None:
        not_before_ms = int((self.now() + self.kafka.retry_delay_s) * 1000)
        headers = [
            *_foreign(record),
            *origin.headers(error),
            (GROUP, self.group.encode()),
            (ROUND, str(origin.round + 1).encode()),
            (NOT_BEFORE, str(not_before_ms).encode()),
        ]
        topic = f"{origin.topic}.retry"
        await self.publisher.publish_record(topic, key=record.key, value=record.value, headers=headers)
        log.warning("%s: put on %s, round %d", _name(record), topic, origin.round + 1)

    async def _dead_letter(self, record: ConsumerRecord[Any, Any], origin: _Origin, error: Exception) -> None:
        headers = [*_foreign(record), *origin.headers(error), (GROUP, self.group.encode())]
        topic = f"{origin.topic}.dlq"
        try:
            await self.publisher.publish_record(topic, key=record.key, value=record.value, headers=headers)
        except EventTooLargeError:
            # A record at the size limit has no room for the headers: better without its value than
            # a partition that stands still. The original stays where the headers say.
            headers.append((VALUE_OMITTED, str(len(record.value)).encode()))
            await self.publisher.publish_record(topic, key=record.key, value=b"", headers=headers)
        metrics.DEAD_LETTERED.labels(topic, type(error).__name__).inc()
        log.error("%s: dead-lettered to %s: %s", _name(record), topic, _describe(error))

    async def _pause_after_routing_failure(self, record: ConsumerRecord[Any, Any], error: Exception) -> None:
        self._routing_failures += 1
        pause_s = min(2.0 ** (self._routing_failures - 1), LONGEST_PAUSE_S)
        log.error("%s: could not be put elsewhere, read again in %.0f s: %s", _name(record), pause_s, error)
        try:
            await self.pauses.wait(pause_s)
        except InterruptedPauseError:
            return

    def _count(self, record: ConsumerRecord[Any, Any], outcome: str) -> None:
        metrics.OUTCOME.labels(record.topic, self.group, outcome).inc()


class FailureRouting(BaseMiddleware):
    """FastStream's hook around the handler, decoding included."""

    def __init__(self, router: Router, msg: Any, *, context: ContextRepo) -> None:
        super().__init__(msg, context=context)
        self._router = router

    async def consume_scope(
        self, call_next: Callable[[StreamMessage[Any]], Awaitable[Any]], msg: StreamMessage[Any]
    ) -> None:
        """Deliver `msg`; raises NackMessage as `Router.deliver`."""
        await self._router.deliver(msg.raw_message, lambda: call_next(msg))


@dataclass(slots=True)
class _Origin:
    """Where a record was first read, and what it has been through."""

    topic: str
    partition: int
    offset: int
    group: str = ""
    round: int = 0
    attempts: int = 0
    not_before_s: float = 0.0

    @classmethod
    def of(cls, record: ConsumerRecord[Any, Any]) -> _Origin:
        origin = cls(record.topic, record.partition, record.offset)
        if not record.topic.endswith(".retry"):
            return origin
        found = {name: raw for name, raw in record.headers if name.startswith(PREFIX)}
        origin.topic = record.topic.removesuffix(".retry")
        origin.group = found.get(GROUP, b"").decode(errors="replace")
        origin.partition = _number(found.get(ORIGINAL_PARTITION), record.partition)
        origin.offset = _number(found.get(ORIGINAL_OFFSET), record.offset)
        origin.round = max(1, _number(found.get(ROUND), 1))
        origin.attempts = _number(found.get(ATTEMPTS), 0)
        origin.not_before_s = _number(found.get(NOT_BEFORE), 0) / 1000
        return origin

    def headers(self, error: Exception) -> Headers:
        texts = {
            ERROR_CLASS: type(error).__name__,
            ERROR_MESSAGE: told(error)[:LONGEST_MESSAGE],
            ORIGINAL_TOPIC: self.topic,
            ORIGINAL_PARTITION: str(self.partition),
            ORIGINAL_OFFSET: str(self.offset),
            ATTEMPTS: str(self.attempts),
            FAILED_AT: datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        return [(name, text.encode(errors="replace")) for name, text in texts.items()]


def _foreign(record: ConsumerRecord[Any, Any]) -> Headers:
    """The record's headers but ours, byte for byte."""
    return [(name, raw if raw is not None else b"") for name, raw in record.headers if not name.startswith(PREFIX)]


def _number(raw: bytes | None, otherwise: int) -> int:
    try:
        return int(raw) if raw is not None else otherwise
    except ValueError:
        return otherwise


def _name(record: ConsumerRecord[Any, Any]) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {told(error)}" if isinstance(error, SimilisError) else told(error)
