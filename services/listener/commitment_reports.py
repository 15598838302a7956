"""Reports on storage commitment: from a request that is kept to its requestor's answer.

    kept ─▶ wait until its studies are archived ─▶ read back ─▶ report on its association, if that is still idle
                                                                 └▶ or on a new one, again and again ─▶ forgotten

A request is reported at least once, also after a crash: its file is removed only when the requestor
has answered the report with Success, or when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from services.listener import metrics
from services.listener.association import Association
from services.listener.commitment_check import COMMITTED, CheckCommitment, Verdict
from services.listener.commitment_delivery import (
    CommitmentTimes,
    DeliverReport,
    OpenTransaction,
    TooOldError,
    build_report,
)
from services.listener.commitment_peers import Peers
from services.listener.commitment_transactions import Kept, Transaction, Transactions
from services.listener.open_studies import OpenStudies
from shared.errors import TransientError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Reported = Callable[[Transaction, Mapping[tuple[str, str, str, int], int]], None]

_THREADS: Final = 4
_POLL_S: Final = 0.25


def tell_nobody(transaction: Transaction, counts: Mapping[tuple[str, str, str, int], int]) -> None:
    """Without an audit log nobody else is told of reports."""


class CommitmentReports:
    """Reports on transactions while `run` runs. `reported` is told of each, with what `Verdict.counts` has."""

    def __init__(
        self,
        *,
        transactions: Transactions,
        check: CheckCommitment,
        open_studies: OpenStudies,
        addresses: Peers,
        times: CommitmentTimes,
        reported: Reported = tell_nobody,
    ) -> None:
        self._transactions = transactions
        self._check = check
        self._open_studies = open_studies
        self._times = times
        self._reported = reported
        self._arrived: queue.SimpleQueue[OpenTransaction] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Association] = queue.SimpleQueue()
        self._open: dict[str, OpenTransaction] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._executor = ThreadPoolExecutor(_THREADS, "dicom-commitment")
        self._deliver = DeliverReport(addresses, times, self._executor)

    @property
    def open_count(self) -> int:
        """Transactions that are not reported yet."""
        return len(self._open) + self._arrived.qsize()

    def requested(self, kept: Kept, transaction: Transaction, association: Association) -> None:
        """A request is durable, and came by `association`. From any thread."""
        self._arrived.put(OpenTransaction(kept, transaction.without_references(), association))

    def association_ended(self, association: Association) -> None:
        """Nothing can be reported on it any more. From any thread."""
        self._ended.put(association)

    async def run(self) -> None:
        """Report until cancelled. What was under way then is resumed by the next run."""
        try:
            for kept, transaction in await self._in_thread(self._transactions.recover):
                self._begin(OpenTransaction(kept, transaction.without_references(), None))
            while True:
                self._take()
                await asyncio.sleep(_POLL_S)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._deliver.close()
            await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

    def _take(self) -> None:
        """Begin with what has arrived, and let go of the associations that have ended."""
        while not self._arrived.empty():
            self._begin(self._arrived.get())
        while not self._ended.empty():
            ended = self._ended.get()
            for one in self._open.values():
                if one.association is ended:
                    one.association = None
        metrics.COMMITMENTS_OPEN.set(len(self._open))

    def _begin(self, arrived: OpenTransaction) -> None:
        name = arrived.kept.name
        if (known := self._open.get(name)) is not None:  # asked once more, perhaps on another association
            known.kept, known.association = arrived.kept, arrived.association or known.association
            return
        self._open[name] = arrived
        self._tasks[name] = asyncio.create_task(self._serve(arrived))

    async def _serve(self, one: OpenTransaction) -> None:
        """See one transaction to its end."""
        uid, caller = one.transaction.transaction_uid, one.transaction.calling_ae_title
        while True:
            kept = one.kept
            try:
                try:
                    await self._settle(one)
                except TooOldError:
                    log.error("storage commitment %s: giving up, %s took no report in time", uid, caller)  # noqa: TRY400
                    metrics.COMMITMENTS_GIVEN_UP.inc()
                # Unless the requestor has asked once more meanwhile.
                if await self._in_thread(self._transactions.remove, kept) and one.kept == kept:
                    break
                one.is_reported.clear()
                await asyncio.sleep(_POLL_S)
            except Exception:
                # No failure may lose a transaction: it stays kept, and an operator sees why.
                log.exception("storage commitment %s: cannot be reported, trying again", uid)
                await asyncio.sleep(self._times.retry_max_s)
        del self._open[kept.name], self._tasks[kept.name]

    async def _settle(self, one: OpenTransaction) -> None:
        name, transaction = one.kept.name, one.transaction
        # Counted from here, not from the request: a process that was away has not waited.
        ends_s = time.monotonic() + self._times.wait_s
        await self._wait(name, ends_s)
        verdict = await self._judge(one, ends_s)
        way = await self._deliver(one, lambda: build_report(self._transactions.load(name), verdict.reasons))
        metrics.COMMITMENT_REPORTS.labels(way).inc()
        for (_, _, _, reason), count in verdict.counts.items():
            metrics.COMMITMENT_INSTANCES.labels(f"{reason:04X}").inc(count)
        log.info(
            "storage commitment %s of %s reported (%s): %d of %d instances committed",
            transaction.transaction_uid,
            transaction.calling_ae_title,
            way,
            verdict.reasons.count(COMMITTED),
            len(verdict.reasons),
        )
        self._reported(transaction, verdict.counts)

    async def _wait(self, name: str, ends_s: float) -> None:
        """Until nothing that the transaction names is on its way to the archive, or the time for it is over."""
        awaited: Mapping[str, int] = {}
        is_known = False
        while time.monotonic() < ends_s:
            with contextlib.suppress(TransientError):
                if not is_known or await self._in_thread(self._have_moved, awaited):
                    awaited, is_known = await self._in_thread(self._awaited, name), True
                if not awaited:
                    return
            for study in awaited:
                # Its sender may wait for the report on the association that would hold the study open.
                self._open_studies.awaited(study)
            await asyncio.sleep(_POLL_S)

    def _awaited(self, name: str) -> Mapping[str, int]:
        return self._check.awaited(self._transactions.load(name))

    def _have_moved(self, awaited: Mapping[str, int]) -> bool:
        return all(self._check.has_moved(study, revision) for study, revision in awaited.items())

    async def _judge(self, one: OpenTransaction, ends_s: float) -> Verdict:
        name = one.kept.name
        while True:
            try:
                return await self._in_thread(lambda: self._check(self._transactions.load(name)))
            except TransientError as error:
                log.warning("storage commitment %s: the archive is away: %s", one.transaction.transaction_uid, error)
            if time.monotonic() >= ends_s:
                return await self._in_thread(lambda: Verdict.failed(self._transactions.load(name)))
            await asyncio.sleep(self._times.retry_s)

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))
