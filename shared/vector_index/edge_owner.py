"""All collections of one data folder, driven from the one thread that may touch the engine.

write ─▶ queue ─▶ apply all that wait, flush once, answer all
tidying and snapshots hold writes back for moments; searches are answered throughout
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from shared.errors import ConfigurationError, IndexUnavailableError, SimilisError
from shared.health import Health
from shared.vector_index import metrics
from shared.vector_index.edge_aliases import AliasFile
from shared.vector_index.edge_engine import EdgeEngine
from shared.vector_index.edge_folder import FolderLock, is_put_away, put_away, remove_put_away
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.edge_tidy import TidyCollection
from shared.vector_index.names import require_known, require_name, require_unused
from shared.vector_index.port import Filter, FramePoint
from shared.vector_index.snapshots import SnapshotCollection, finish_snapshot, require_no_restore, start_snapshot
from shared.vector_index.vectors import checked_points

log = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK_S: Final = 0.5


@dataclass(slots=True)
class _Upsert:
    collection: str
    dim: int
    points: Sequence[FramePoint]
    only_new: bool
    done: asyncio.Future[None]


class EdgeOwner:
    """Opens collections on first use and shares one flush between concurrent upserts."""

    def __init__(self, data_dir: Path, settings: IndexSection, health: Health) -> None:
        """Take the folder.

        Raises:
            ConfigurationError: another process owns it, a restore was interrupted, or the aliases cannot be read.
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
        # Held by whoever writes, and by whoever needs that nobody does.
        self._writing = asyncio.Lock()
        self._last_write = time.monotonic()
        self._untidy: set[str] = set()
        self._tidying: str | None = None
        try:
            require_no_restore(data_dir)
            self._aliases = AliasFile(data_dir)
        except ConfigurationError:
            self._lock.release()
            raise

    async def open_existing(self) -> None:
        """Open every collection in the folder, which replays its log."""
        await asyncio.to_thread(remove_put_away, self._data_dir)
        for name in self._stored():
            await self.on_engine_thread(partial(self._engine, name, None))

    async def call(self, collection: str, dim: int, work: Callable[[EdgeEngine], T]) -> T:
        """Run `work` on a collection's engine, which is made if it is not there.

        Raises:
            ConfigurationError: the name is not safe, or the collection holds vectors of another length.
            IndexUnavailableError: the engine failed.
        """
        return await self.on_engine_thread(lambda: work(self._engine(collection, dim)))

    async def upsert(self, collection: str, dim: int, points: Sequence[FramePoint], *, only_new: bool = False) -> None:
        """Store points; when it returns they are on the disk. A search may see a part of them before.

        Raises:
            InvalidVectorError: one of the vectors is not valid; nothing is stored.
        """
        checked_points(points, dim)
        request = _Upsert(collection, dim, points, only_new, asyncio.get_running_loop().create_future())
        self._pending.append(request)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        await request.done

    async def delete(self, collection: str, dim: int, where: Filter) -> None:
        """Remove the points that meet the filter; when it returns that is on the disk."""
        async with self._writing:
            await self.call(collection, dim, lambda engine: engine.delete(where))
        await self._wrote(collection)

    async def get_alias(self, alias: str) -> str | None:
        """The collection that an alias stands for."""
        return self._aliases.get(alias)

    async def switch_alias(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection; when it returns that is on the disk.

        Raises:
            ConfigurationError: there is no such collection, or the alias cannot be a name.
        """
        require_name(alias)
        async with self._writing:  # it must not be dropped meanwhile
            require_known(collection, self.collections())
            await asyncio.to_thread(self._aliases.switch, alias, collection)

    def collections(self) -> list[str]:
        """All collections, in order."""
        return sorted({*self._engines, *self._stored()})

    async def drop(self, collection: str) -> None:
        """Remove a collection; when it returns that is on the disk.

        Raises:
            ConfigurationError: there is no such collection, or an alias stands for it.
            IndexUnavailableError: it is being rebuilt just now.
        """
        async with self._writing:
            require_known(collection, self.collections())
            require_unused(collection, self._aliases.all())
            if collection == self._tidying:
                raise IndexUnavailableError(f"the collection {collection!r} is being rebuilt: try again later")
            self._untidy.discard(collection)
            await self.on_engine_thread(partial(self._put_away, collection))
        await asyncio.to_thread(remove_put_away, self._data_dir)

    async def snapshot(self, target: Path) -> dict[str, int]:
        """Copy every collection and the aliases to `target`; how many points each holds there.

        One state of all collections: writes wait meanwhile, searches do between two collections.

        Raises:
            ConfigurationError: `target` is there already or cannot be written.
            IndexUnavailableError: the disk is full or fails.
        """
        draft = await asyncio.to_thread(start_snapshot, target)
        async with self._writing:
            copied: list[SnapshotCollection] = []
            for name in self.collections():
                engine = await self.on_engine_thread(partial(self._engine, name, None))
                points = await self.on_engine_thread(partial(engine.copy_to, draft / name))
                copied.append(SnapshotCollection(name=name, dim=engine.dim, points=points))
            aliases = self._aliases.all()
        await asyncio.to_thread(finish_snapshot, draft, target, copied, aliases)
        return {one.name: one.points for one in copied}

    async def tidy_for_ever(self) -> None:
        """Rebuild changed collections where that is due: once writes pause, else from time to time."""
        settings = self._settings
        last_look = time.monotonic()
        while True:
            await asyncio.sleep(min(_LOOK_S, settings.optimize_idle_s))
            now = time.monotonic()
            is_idle = now - self._last_write >= settings.optimize_idle_s
            if not self._untidy or not (is_idle or now - last_look >= settings.optimize_every_s):
                continue
            untidy, self._untidy = self._untidy, set()
            for collection in sorted(untidy):
                self._tidying = collection
                try:
                    engine = await self.on_engine_thread(partial(self._engine, collection, None))
                    tidy = TidyCollection(engine, settings, self._writing, self.on_engine_thread)
                    if await tidy():
                        log.info("collection %s optimised", collection)
                        await self._measure(collection)
                except SimilisError as error:
                    log.warning("collection %s could not be optimised: %s", collection, error)
                    metrics.ERRORS.labels("optimize", "engine").inc()
                finally:
                    self._tidying = None
            last_look = time.monotonic()

    async def close(self) -> None:
        """Finish the writes under way, close every collection, give the folder back."""
        if self._writer is not None:
            await self._writer
        try:
            for engine in self._engines.values():
                await self.on_engine_thread(engine.close)
        finally:
            self._thread.shutdown()
            self._lock.release()

    async def _write_all(self) -> None:
        while self._pending:
            group, self._pending = self._pending, []
            try:
                async with self._writing:
                    outcome = await self._commit(group)
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
                await self._wrote(collection)

    async def _commit(self, group: Sequence[_Upsert]) -> list[tuple[_Upsert, Exception | None]]:
        outcome: list[tuple[_Upsert, Exception | None]] = []
        applied: dict[str, list[_Upsert]] = {}
        for request in group:
            try:
                await self._apply(request)
                applied.setdefault(request.collection, []).append(request)
            except SimilisError as error:
                outcome.append((request, error))
        for collection, requests in applied.items():
            failure: SimilisError | None = None
            try:
                await self.on_engine_thread(self._engine(collection, None).flush)
            except SimilisError as error:
                failure = error
            else:
                metrics.COMMITS.inc()
                metrics.UPSERTED.inc(sum(len(request.points) for request in requests))
            outcome += [(request, failure) for request in requests]
        return outcome

    async def _apply(self, request: _Upsert) -> None:
        # In turns, so that searches need not wait for the whole of a large request.
        turn = self._settings.points_per_turn
        for start in range(0, max(1, len(request.points)), turn):
            apply = partial(EdgeEngine.apply, points=request.points[start : start + turn], only_new=request.only_new)
            await self.call(request.collection, request.dim, apply)

    async def _wrote(self, collection: str) -> None:
        self._last_write = time.monotonic()
        self._untidy.add(collection)
        try:
            await self._measure(collection)
        except SimilisError as error:
            log.warning("collection %s could not be counted: %s", collection, error)

    async def _measure(self, collection: str) -> None:
        def measure() -> None:
            if (engine := self._engines.get(collection)) is not None:  # it may have been dropped since
                metrics.POINTS.labels(collection).set(engine.count())
                metrics.FLAT_POINTS.labels(collection).set(engine.flat_points())

        await self.on_engine_thread(measure)

    def _engine(self, collection: str, dim: int | None) -> EdgeEngine:
        engine = self._engines.get(collection)
        if engine is None:
            engine = EdgeEngine(self._data_dir / require_name(collection), dim=dim, settings=self._settings)
            self._engines[collection] = engine
            self._untidy.add(collection)
            metrics.POINTS.labels(collection).set(engine.count())
            metrics.FLAT_POINTS.labels(collection).set(engine.flat_points())
        engine.require_dim(dim)
        return engine

    def _put_away(self, collection: str) -> None:
        self._engine(collection, None).close()
        del self._engines[collection]
        metrics.POINTS.remove(collection)
        metrics.FLAT_POINTS.remove(collection)
        put_away(self._data_dir / collection)  # in the same turn of the thread: nobody can open it in between

    def _stored(self) -> list[str]:
        # Also where a kill left only the old shard: opening the collection puts that back.
        found = (*self._data_dir.glob("*/shard/edge_config.json"), *self._data_dir.glob("*/shard.old/edge_config.json"))
        return sorted({config.parent.parent.name for config in found if not is_put_away(config.parent.parent)})

    def on_engine_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """The result of `work`, which may touch the engine; calls are served in their order."""

        def watched() -> T:
            self._health.progress(busy=True)
            try:
                return work()
            finally:
                self._health.progress(busy=False)

        return asyncio.get_running_loop().run_in_executor(self._thread, watched)
