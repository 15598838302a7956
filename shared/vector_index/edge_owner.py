"""All collections of one data folder, driven from the one thread that may touch the engine.

upsert ─▶ queue ─▶ apply all that wait, flush once, answer all ─▶ (no writes for a while) optimise
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from shared.errors import ConfigurationError, SimilisError
from shared.health import Health
from shared.vector_index import metrics
from shared.vector_index.edge_engine import EdgeEngine, FolderLock
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.port import FramePoint

log = logging.getLogger(__name__)
T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(slots=True)
class _Upsert:
    collection: str
    dim: int
    points: Sequence[FramePoint]
    done: asyncio.Future[None]


class EdgeOwner:
    """Opens collections on first use and shares one flush between concurrent upserts."""

    def __init__(self, data_dir: Path, settings: IndexSection, health: Health) -> None:
        """Take the folder.

        Raises:
            ConfigurationError: another process owns it.
        """
        self._lock = FolderLock(data_dir)
        self._data_dir = data_dir
        self._settings = settings
        self._health = health
        # One thread: the engine holds the GIL anyway, and a call under way must end before the next.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._engines: dict[str, EdgeEngine] = {}
        self._pending: list[_Upsert] = []
        self._writer: asyncio.Task[None] | None = None
        self._last_write = time.monotonic()
        self._untidy: set[str] = set()

    async def open_existing(self) -> None:
        """Open every collection in the folder, which replays its log."""
        for config in sorted(self._data_dir.glob("*/shard/edge_config.json")):
            await self._on_engine_thread(partial(self._engine, config.parent.parent.name, None))

    async def call(self, collection: str, dim: int, work: Callable[[EdgeEngine], T]) -> T:
        """Run `work` on a collection's engine, which is made if it is not there.

        Raises:
            ConfigurationError: the name is not safe, or the collection holds vectors of another length.
            IndexUnavailableError: the engine failed.
        """
        return await self._on_engine_thread(lambda: work(self._engine(collection, dim)))

    async def upsert(self, collection: str, dim: int, points: Sequence[FramePoint]) -> None:
        """Store points; when it returns they are on the disk."""
        request = _Upsert(collection, dim, points, asyncio.get_running_loop().create_future())
        self._pending.append(request)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        await request.done

    async def wrote(self, collection: str) -> None:
        """Note that a collection changed."""
        self._last_write = time.monotonic()
        self._untidy.add(collection)
        try:
            points = await self._on_engine_thread(lambda: self._engine(collection, None).count())
        except SimilisError as error:
            log.warning("collection %s could not be counted: %s", collection, error)
        else:
            metrics.POINTS.labels(collection).set(points)

    async def tidy_for_ever(self) -> None:
        """Optimise changed collections whenever nothing was written for a while."""
        idle_s = self._settings.optimize_idle_s
        while True:
            left_s = self._last_write + idle_s - time.monotonic()
            if left_s > 0 or not self._untidy:
                await asyncio.sleep(left_s if left_s > 0 else idle_s)
                continue
            collection = self._untidy.pop()
            try:
                with metrics.OPTIMIZE_SECONDS.time():
                    changed = await self._on_engine_thread(partial(self._optimize, collection))
                if changed:
                    log.info("collection %s optimised", collection)
            except SimilisError as error:
                log.warning("collection %s could not be optimised: %s", collection, error)

    async def close(self) -> None:
        """Finish the writes under way, close every collection, give the folder back."""
        if self._writer is not None:
            await self._writer
        try:
            for engine in self._engines.values():
                await self._on_engine_thread(engine.close)
        finally:
            self._thread.shutdown()
            self._lock.release()

    async def _write_all(self) -> None:
        while self._pending:
            group, self._pending = self._pending, []
            try:
                outcome = await self._on_engine_thread(partial(self._commit, group))
            except Exception as error:
                # Whatever it was, nobody may be left waiting.
                log.exception("a group of upserts failed")
                outcome = [(request, error) for request in group]
            for request, failure in outcome:
                if request.done.done():
                    continue
                if failure is None:
                    request.done.set_result(None)
                else:
                    request.done.set_exception(failure)
            for collection in {request.collection for request, failure in outcome if failure is None}:
                await self.wrote(collection)

    def _commit(self, group: Sequence[_Upsert]) -> list[tuple[_Upsert, Exception | None]]:
        outcome: list[tuple[_Upsert, Exception | None]] = []
        by_collection: dict[str, list[_Upsert]] = {}
        for request in group:
            by_collection.setdefault(request.collection, []).append(request)
        for requests in by_collection.values():
            outcome += self._commit_collection(requests)
        return outcome

    def _commit_collection(self, requests: Sequence[_Upsert]) -> list[tuple[_Upsert, Exception | None]]:
        outcome: list[tuple[_Upsert, Exception | None]] = []
        applied: list[_Upsert] = []
        engine: EdgeEngine | None = None
        for request in requests:
            try:
                engine = self._engine(request.collection, request.dim)
                engine.apply(request.points)
                applied.append(request)
            except SimilisError as error:
                outcome.append((request, error))
        failure: SimilisError | None = None
        if engine is not None and applied:
            try:
                engine.flush()
            except SimilisError as error:
                failure = error
            else:
                metrics.COMMITS.inc()
                metrics.UPSERTED.inc(sum(len(request.points) for request in applied))
        return outcome + [(request, failure) for request in applied]

    def _optimize(self, collection: str) -> bool:
        return self._engine(collection, None).optimize()

    def _engine(self, collection: str, dim: int | None) -> EdgeEngine:
        engine = self._engines.get(collection)
        if engine is None:
            if _NAME.fullmatch(collection) is None:
                raise ConfigurationError(f"{collection!r} cannot name a collection")
            engine = EdgeEngine(self._data_dir / collection, dim=dim, settings=self._settings)
            self._engines[collection] = engine
            metrics.POINTS.labels(collection).set(engine.count())
        engine.require_dim(dim)
        return engine

    def _on_engine_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        def watched() -> T:
            self._health.progress(busy=True)
            try:
                return work()
            finally:
                self._health.progress(busy=False)

        return asyncio.get_running_loop().run_in_executor(self._thread, watched)
