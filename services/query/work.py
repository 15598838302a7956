"""Blocking work in threads, so much at a time, with a bound on the wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from services.query import problems

T = TypeVar("T")


class Workers:
    """A named share of threads. A request that waits too long for one is told to come back."""

    def __init__(self, size: int, *, queue_timeout_s: float, retry_after_s: int) -> None:
        self._free = anyio.Semaphore(size)
        self._threads = anyio.CapacityLimiter(size)
        self._queue_timeout_s = queue_timeout_s
        self._retry_after_s = retry_after_s

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread.

        Raises:
            Problem: 503, no worker came free in time.
        """
        try:
            with anyio.fail_after(self._queue_timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise problems.busy(self._retry_after_s) from error
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._free.release()
