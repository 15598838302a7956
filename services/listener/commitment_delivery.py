"""Delivery of a report on storage commitment: on the association that asked, else on a new one to its AE.

A requestor that cannot be reached is tried again and again, after pauses that grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from weakref import WeakSet

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from services.listener import dimse, metrics
from services.listener.association import Association
from services.listener.commitment_check import COMMITTED
from services.listener.commitment_peers import STORAGE_COMMITMENT_INSTANCE, Compose, Peers, ReportByAssociation
from services.listener.commitment_transactions import Kept, Transaction
from services.listener.negotiation import STORAGE_COMMITMENT

log = logging.getLogger(__name__)

# PS3.4 table J.3-4.
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2

_POLL_S: Final = 0.25
# Few requestors can take a report while they send: it goes out on their association once that is idle.
_IDLE_S: Final = 0.5
_CHANCE_S: Final = 10.0
_ANSWER_S: Final = 10.0


class TooOldError(Exception):
    """The time to report a transaction is over."""


@dataclass(frozen=True, slots=True)
class CommitmentTimes:
    """How long objects are waited for that are not archived yet, and how often and long a requestor is tried."""

    wait_s: float
    retry_s: float
    retry_max_s: float
    retry_max_age_s: float


@dataclass(slots=True)
class OpenTransaction:
    """A transaction on its way. `association` is the one that asked, as long as it may take the report."""

    kept: Kept
    transaction: Transaction
    association: Association | None
    is_reported: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def age_s(self) -> float:
        """How long ago it was received."""
        return (datetime.now(UTC) - self.transaction.received_at).total_seconds()


@dataclass(slots=True)
class _Pause:
    """Something that failed is tried again after a pause, which doubles."""

    times: CommitmentTimes
    length_s: float = 0.0
    ends_s: float = 0.0

    def is_over(self) -> bool:
        return time.monotonic() >= self.ends_s

    def begin(self) -> None:
        self.length_s = min(self.length_s * 2 or self.times.retry_s, self.times.retry_max_s)
        self.ends_s = time.monotonic() + self.length_s


@dataclass(slots=True)
class _Peer:
    """A requestor's AE: one association to it at a time, and a pause if it cannot be reached."""

    address: tuple[str, int]
    pause: _Pause
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def build_report(transaction: Transaction, reasons: Sequence[int]) -> tuple[int, Dataset]:
    """The event type, and the report: PS3.4 table J.3-3. `reasons` has COMMITTED or a Failure Reason a reference."""
    committed, failed = [], []
    for reference, reason in zip(transaction.references, reasons, strict=True):
        item = Dataset()
        _put(item, "ReferencedSOPClassUID", "UI", reference.sop_class_uid)
        _put(item, "ReferencedSOPInstanceUID", "UI", reference.sop_instance_uid)
        if reason == COMMITTED:
            committed.append(item)
        else:
            _put(item, "FailureReason", "US", reason)
            failed.append(item)
    ds = Dataset()
    _put(ds, "TransactionUID", "UI", transaction.transaction_uid)
    if failed:
        _put(ds, "FailedSOPSequence", "SQ", DicomSequence(failed))
    if committed:
        _put(ds, "ReferencedSOPSequence", "SQ", DicomSequence(committed))
    return FAILURES_EXIST if failed else ALL_COMMITTED, ds


def encode_report(ds: Dataset, transfer_syntax_uid: str) -> bytes:
    """The report's bytes in a transfer syntax."""
    syntax = UID(transfer_syntax_uid)
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if data is None:
        raise ValueError("a report cannot be encoded")
    return data


def _put(ds: Dataset, keyword: str, vr: str, value: object) -> None:
    # UIDs go back as they came, also those with a leading zero that pydicom would warn of.
    ds.add(DataElement(Tag(keyword), vr, value, validation_mode=config.IGNORE))


class DeliverReport:
    """Delivers reports, in the event loop; what blocks is done by the threads of `executor`."""

    def __init__(self, addresses: Peers, times: CommitmentTimes, executor: ThreadPoolExecutor) -> None:
        self._times = times
        self._executor = executor
        self._report_by_association = ReportByAssociation()
        self._peers = {title: _Peer(address, _Pause(times)) for title, address in addresses.items()}
        # PS3.7 section D.3.3.3: without negotiation one report at a time is on its way on an association.
        self._unanswered: WeakSet[Association] = WeakSet()

    def close(self) -> None:
        """Break off what is under way on new associations."""
        self._report_by_association.close()

    async def __call__(self, one: OpenTransaction, compose: Compose) -> str:
        """Deliver the report, which is composed anew each time that it is sent; by which way.

        Raises:
            TooOldError: it could not be delivered in time.
        """
        own_pause = _Pause(self._times)
        caller = one.transaction.calling_ae_title
        peer = self._peers.get(caller)
        while one.age_s < self._times.retry_max_age_s:
            if (association := one.association) is not None:
                await self._on_its_own(one, association, compose)
                if one.association is association:
                    one.association = None
            elif peer is not None and peer.pause.is_over() and own_pause.is_over():
                async with peer.lock:
                    if not peer.pause.is_over():
                        continue
                    status = await asyncio.get_running_loop().run_in_executor(
                        self._executor, self._report_by_association, one.transaction, peer.address, compose
                    )
                    if status == dimse.SUCCESS:
                        peer.pause = _Pause(self._times)
                        return "new association"
                    # A peer that does not answer is spared by all its transactions, one that refuses only by this.
                    (peer.pause if status is None else own_pause).begin()
                    metrics.COMMITMENT_RETRIES.inc()
                answer = "no answer" if status is None else f"status 0x{status:04X}"
                log.warning("storage commitment %s: %s from %s", one.transaction.transaction_uid, answer, caller)
            else:
                await asyncio.sleep(_POLL_S)
            if one.is_reported.is_set():
                return "same association"
        raise TooOldError

    async def _on_its_own(self, one: OpenTransaction, association: Association, compose: Compose) -> None:
        """Report on the association that asked, once it is idle; `is_reported` is set if that works."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()

        def note(status: int) -> None:
            self._unanswered.discard(association)
            if status == dimse.SUCCESS:
                one.is_reported.set()
            if not answer.done():
                answer.set_result(status)

        def answered(status: int) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: the next run reports once more
                loop.call_soon_threadsafe(note, status)

        def send() -> bool:
            event_type_id, ds = compose()
            return association.report(
                sop_class_uid=STORAGE_COMMITMENT,
                sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
                event_type_id=event_type_id,
                data_set=lambda transfer_syntax_uid: encode_report(ds, transfer_syntax_uid),
                answered=answered,
            )

        has_another_way = one.transaction.calling_ae_title in self._peers
        patience_s = one.age_s + _CHANCE_S if has_another_way else self._times.retry_max_age_s
        while one.association is association and one.age_s < patience_s:
            if association.idle_s >= _IDLE_S and association not in self._unanswered:
                self._unanswered.add(association)
                if await loop.run_in_executor(self._executor, send):
                    await asyncio.wait({answer}, timeout=_ANSWER_S)
                return
            await asyncio.sleep(_POLL_S)
