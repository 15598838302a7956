"""One collection tidied while searches are answered: the step that drives a rebuild."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from shared.errors import IndexUnavailableError
from shared.vector_index import metrics
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_rebuild import build_command, drop_old
from shared.vector_index.edge_settings import IndexSection

log = logging.getLogger(__name__)

_FEW_ROUNDS: Final = 20


@dataclass(frozen=True, slots=True)
class TidyCollection:
    """Copy, optimise the copy in another process, catch up, put in place; nothing where none is due."""

    engine: EdgeEngine
    settings: IndexSection
    writing: asyncio.Lock
    on_engine_thread: Callable[[Callable[[], Any]], Awaitable[Any]]

    async def __call__(self) -> bool:
        """Say whether the collection was rebuilt.

        Raises:
            IndexUnavailableError: it could not be; the collection is as it was.
        """
        if not await self.on_engine_thread(self.engine.is_rebuild_due):
            return False
        metrics.REBUILDING.set(1)
        try:
            with metrics.OPTIMIZE_SECONDS.time():
                await self._rebuild()
        finally:
            metrics.REBUILDING.set(0)
            # After a cancellation, too: the copy goes, the collection stays.
            await asyncio.shield(asyncio.ensure_future(self.on_engine_thread(self.engine.abandon_rebuild)))
        return True

    async def _rebuild(self) -> None:
        draft = await self._timed("copy", self.engine.begin_rebuild)
        await _build(draft, timeout_s=self.settings.build_timeout_s)
        turn = partial(self.engine.catch_up, at_most=self.settings.points_per_turn)
        # Most of what changed is caught up with beside the writes; the rest while they wait, still turn by turn.
        left = await self._timed("catch_up", turn)
        for _ in range(_FEW_ROUNDS):
            if left <= self.settings.points_per_turn:
                break
            left = await self._timed("catch_up", turn)
        async with self.writing:
            while left:
                left = await self._timed("catch_up", turn)
            await self._timed("swap", self.engine.finish_rebuild)
        await asyncio.to_thread(drop_old, self.engine.folder)

    async def _timed(self, step: str, work: Callable[[], Any]) -> Any:
        def timed() -> Any:
            started = time.perf_counter()
            try:
                return work()
            finally:
                metrics.PAUSE_SECONDS.labels(step).observe(time.perf_counter() - started)

        return await self.on_engine_thread(timed)


async def _build(draft: Path, *, timeout_s: float) -> None:
    process = await asyncio.create_subprocess_exec(
        *build_command(draft),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise IndexUnavailableError(f"no graph was built within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise IndexUnavailableError(f"the building process ended with {process.returncode}: {last}")
