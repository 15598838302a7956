"""Blocking work in threads, so much at a time, with a bound on the wait."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

from services.query import problems

T = TypeVar("T")


class Workers:
    """A named share of threads. A request that waits too long for one is told to come back."""

    def __init__(self, size: int, *, queue_timeout_s: float, retry_after_s: int) -> None:
        self._free = anyio.Semaphore(size)
        self._threads = ThreadPoolExecutor(size)
        self._queue_timeout_s = queue_timeout_s
        self._retry_after_s = retry_after_s

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread. A caller that is cancelled leaves at once; the worker stays taken until `work` ends.

        Raises:
            Problem: 503, no worker came free in time.
        """
        try:
            with anyio.fail_after(self._queue_timeout_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise problems.busy(self._retry_after_s) from error
        context = contextvars.copy_context()
        doing = asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(work))
        doing.add_done_callback(self._done)
        return await asyncio.shield(doing)

    def _done(self, doing: asyncio.Future[T]) -> None:
        self._free.release()
        if not doing.cancelled():
            doing.exception()  # one whose caller is gone is nobody's any more
