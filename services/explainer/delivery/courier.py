"""Deliveries to one destination: one after the other, again after pauses that grow, until done or given up.

waiting ─▶ send ─┬▶ stored                                     ─▶ done
                 ├▶ stored, commitment asked ─▶ report ─┬▶ all ─▶ done
                 │                                      └▶ not all, or none in time ─▶ failed
                 └▶ failed ─▶ pause ─▶ waiting, or dead once it is too old
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from uuid import UUID

from services.explainer.delivery import metrics
from services.explainer.delivery.records import Delivery, DeliveryRecords
from services.explainer.delivery.sending import DeliveryError, SendObjects, Sent
from services.explainer.delivery.settings import DeliverySection
from services.explainer.delivery.transactions import Transaction
from shared.errors import PermanentError, TransientError
from shared.unforeseen import path_of, told

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Turn:
    """When to look at a delivery again. With `sent`, its objects are there and their report is waited for."""

    due_s: float
    delivery: Delivery
    sent: Sent | None = None


class Courier:
    """Works in a thread of its own between `start` and `stop`. What it has not finished is in the records."""

    def __init__(self, section: DeliverySection, send: SendObjects, records: DeliveryRecords) -> None:
        self._section = section
        self._send = send
        self._records = records
        self._name = send.destination.name
        self._turns: list[_Turn] = []
        self._under_way: set[UUID] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._not_before_s = 0.0
        self._unreachable_in_a_row = 0
        self._thread = threading.Thread(target=self._run, name=f"deliver-{self._name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Begin nothing more, and wait for what is under way."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def give(self, delivery: Delivery) -> None:
        """Deliver it, as soon as may be; one that is under way already is left to it. From any thread."""
        with self._changed:
            if delivery.id in self._under_way:
                return
            self._under_way.add(delivery.id)
            metrics.WAITING.labels(self._name).set(len(self._under_way))
        self._later(delivery, 0.0)

    def _later(self, delivery: Delivery, pause_s: float, sent: Sent | None = None) -> None:
        with self._changed:
            self._turns.append(_Turn(time.monotonic() + pause_s, delivery, sent))
            self._changed.notify_all()

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            try:
                self._take(turn)
            except TransientError as error:  # of the archive: the record is as it was
                metrics.FAILURES.labels(self._name, "archive").inc()
                log.warning("delivery %s waits for the archive: %s", turn.delivery.id, error)
                self._later(turn.delivery, self._section.retry_s, turn.sent)
            except Exception as error:  # noqa: BLE001  (a bug must not end all deliveries)
                self._log(turn, error)
                self._stumbled(turn, error)

    def _next(self) -> _Turn | None:
        """Wait for the next turn; None once it is time to stop."""
        with self._changed:
            while not self._stopping:
                turn = min(self._turns, key=self._ready_s, default=None)
                wait_s = None if turn is None else self._ready_s(turn) - time.monotonic()
                if turn is not None and wait_s is not None and wait_s <= 0:
                    self._turns.remove(turn)
                    return turn
                self._changed.wait(wait_s)
        return None

    def _ready_s(self, turn: _Turn) -> float:
        return turn.due_s if turn.sent is not None else max(turn.due_s, self._not_before_s)

    def _take(self, turn: _Turn) -> None:
        try:
            sent = turn.sent or self._send(turn.delivery.objects, self._reported)
            self._unreachable_in_a_row = 0
            self._conclude(turn.delivery, sent, is_overdue=turn.sent is not None)
        except DeliveryError as error:
            self._failed(turn.delivery, error)
        except PermanentError as error:
            self._dead(turn.delivery, str(error))

    def _conclude(self, delivery: Delivery, sent: Sent, *, is_overdue: bool) -> None:
        transaction = sent.transaction
        if transaction is not None and not transaction.is_reported():
            if not is_overdue:
                self._later(delivery, self._section.commitment_wait_s, sent)
                if transaction.is_reported():  # it has come meanwhile
                    self._reported(transaction)
                return
            self._send.transactions.forget(transaction)
            raise DeliveryError("no-report", f"{self._name} has not reported whether it keeps the objects")
        if transaction is not None and transaction.failures:
            told = ", ".join(f"{uid} {reason}" for uid, reason in transaction.failures.items())
            raise DeliveryError("not-committed", f"{self._name} does not keep {told}")
        self._records.done(delivery, committed=transaction is not None, not_taken=sent.not_taken)
        self._ended(delivery, "stored" if transaction is None else "committed")

    def _reported(self, transaction: Transaction) -> None:
        """Look at the delivery that waits for this report now, not when its time is over."""
        with self._changed:
            for turn in self._turns:
                if turn.sent is not None and turn.sent.transaction is transaction:
                    turn.due_s = 0.0
            self._changed.notify_all()

    def _failed(self, delivery: Delivery, error: DeliveryError) -> None:
        metrics.FAILURES.labels(self._name, error.reason).inc()
        age_s = (self._records.now() - delivery.enqueued_at).total_seconds()
        if age_s >= self._section.give_up_after_s:
            self._dead(delivery, f"{error}, after {delivery.attempts + 1} tries")
            return
        log.warning("delivery %s, try %d: %s", delivery.id, delivery.attempts + 1, error)
        again = self._records.failed(delivery, str(error))
        if error.is_unreachable:
            self._not_before_s = time.monotonic() + self._pause_s(self._unreachable_in_a_row)
            self._unreachable_in_a_row += 1
            self._later(again, 0.0)
        else:
            self._later(again, self._pause_s(delivery.attempts))

    def _stumbled(self, turn: _Turn, error: Exception) -> None:
        """Note an error that nobody foresaw as a failed try."""
        if turn.sent is not None and turn.sent.transaction is not None:
            self._send.transactions.forget(turn.sent.transaction)
        try:
            self._failed(turn.delivery, DeliveryError("unexpected", told(error)))
        except Exception as again:  # noqa: BLE001  (the record stays as it was, and the delivery under way)
            self._log(turn, again)
            self._later(turn.delivery, self._section.retry_max_s)

    def _log(self, turn: _Turn, error: Exception) -> None:
        # Not its text: what is sent names a patient, and pydicom quotes what it chokes on.
        log.error("delivery %s to %s: %s\n%s", turn.delivery.id, self._name, told(error), path_of(error))

    def _pause_s(self, failures: int) -> float:
        return float(min(self._section.retry_s * 2.0 ** min(failures, 30), self._section.retry_max_s))

    def _dead(self, delivery: Delivery, reason: str) -> None:
        self._records.dead(delivery, reason)
        self._ended(delivery, "dead-lettered")
        log.error("delivery %s is given up; its objects stay in the archive: %s", delivery.id, reason)

    def _ended(self, delivery: Delivery, outcome: str) -> None:
        with self._changed:
            self._under_way.discard(delivery.id)
            metrics.WAITING.labels(self._name).set(len(self._under_way))
        metrics.DELIVERIES.labels(self._name, outcome).inc()
