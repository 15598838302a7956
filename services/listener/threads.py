"""Blocking calls beside the event loop, which must not outlive what they use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], executor: Executor | None = None) -> T:
    """`call` in a thread of `executor`. However often it is cancelled, it ends no sooner than the thread."""
    work = asyncio.get_running_loop().run_in_executor(executor, call)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        with contextlib.suppress(BaseException):
            work.result()  # seen: the cancellation is what is told
        raise cancelled
    return work.result()
