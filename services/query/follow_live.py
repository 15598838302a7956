"""The alias `live` followed: when it was switched, the other backbone is loaded and searches change to it.

look ─▶ (another collection) load ─▶ ask its collection ─▶ exchange the parts ─▶ later close the old collections

Requests under way end on the parts that they began with. What cannot be loaded changes nothing: searches go on as
before, and it is tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from services.query import metrics
from services.query.live_backbone import with_live
from services.query.parts import Parts
from services.query.ports import Encoder
from services.query.spaces import Collections
from shared.errors import IndexUnavailableError, SimilisError
from shared.unforeseen import told
from shared.vector_index import collection_name
from shared.vector_index.aliases import LIVE_ALIAS
from shared.vector_index.port import Aliases

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 10.0
LONGEST_PAUSE_S: Final = 600.0

Load = Callable[[str], tuple[Encoder, Collections]]
"""The backbone that fills a collection of frames, loaded, and its collections. Blocks for seconds."""


@dataclass(slots=True)
class _Failure:
    collection: str
    pause_s: float
    again_at_s: float


@dataclass(slots=True)
class FollowLive:
    """Exchanges the parts of the service when the alias was switched. One task runs it.

    Attributes:
        current: The parts that requests get now.
        exchange: Gives requests other parts from now on.
        grace_s: Longest that a request may take; then the old collections are closed.
    """

    aliases: Aliases
    load: Load
    current: Callable[[], Parts]
    exchange: Callable[[Parts], None]
    poll_s: float
    grace_s: float
    clock: Callable[[], float] = time.monotonic
    _failure: _Failure | None = None
    _retiring: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self) -> None:
        """Look every `poll_s`, until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                except Exception as error:  # noqa: BLE001 - else nobody would follow, and nobody notice
                    log.error("the alias %s cannot be followed: %s", LIVE_ALIAS, told(error))  # noqa: TRY400
                await asyncio.sleep(self.poll_s)
        finally:
            for task in self._retiring:
                task.cancel()
            await asyncio.gather(*self._retiring, return_exceptions=True)
            await asyncio.to_thread(self.aliases.close)

    async def look(self) -> bool:
        """Follow the alias once; whether the parts were exchanged. Raises nothing but a cancellation."""
        try:
            wanted = await asyncio.to_thread(self.aliases.get, LIVE_ALIAS)
        except IndexUnavailableError:
            return False  # searches say so themselves
        except SimilisError as error:
            log.warning("the alias %s cannot be read: %s", LIVE_ALIAS, error)
            return False
        if wanted is None or wanted == collection_name(self.current().encoder.id):
            self._failure = None
            metrics.LIVE_FOLLOWED.set(1)
            return False
        metrics.LIVE_FOLLOWED.set(0)
        failure = self._failure
        if failure is not None and failure.collection == wanted and self.clock() < failure.again_at_s:
            return False
        return await self._change(wanted)

    async def _change(self, wanted: str) -> bool:
        log.info("searches change to %s: its backbone is loaded", wanted)
        try:
            encoder, collections = await asyncio.to_thread(self._opened, wanted)
        except Exception as error:  # noqa: BLE001 - whatever a model fails with, searches go on
            self._failed(wanted, error)
            return False
        old = self.current().collections
        self.exchange(with_live(self.current(), encoder, collections))
        self._failure = None
        metrics.LIVE_FOLLOWED.set(1)
        metrics.LIVE_CHANGES.labels("done").inc()
        log.info("searches are by %s now (research use only)", encoder.id)
        retiring = asyncio.create_task(self._retire(old))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return True

    def _opened(self, wanted: str) -> tuple[Encoder, Collections]:
        encoder, collections = self.load(wanted)
        try:
            collections.frames.count()  # it must answer before anything is asked of it
        except BaseException:
            collections.close()
            raise
        return encoder, collections

    def _failed(self, wanted: str, error: Exception) -> None:
        last = self._failure
        pause_s = FIRST_PAUSE_S
        if last is not None and last.collection == wanted:
            pause_s = min(2 * last.pause_s, LONGEST_PAUSE_S)
        self._failure = _Failure(wanted, pause_s, self.clock() + pause_s)
        metrics.LIVE_CHANGES.labels("failed").inc()
        log.error(
            "searches stay with %s, since %s cannot be loaded: %s; tried again in %.0f s",
            self.current().encoder.id,
            wanted,
            told(error),
            pause_s,
        )

    async def _retire(self, collections: Collections) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(self.grace_s)
        await asyncio.to_thread(collections.close)
