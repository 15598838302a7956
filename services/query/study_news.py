"""What is new about studies: received, judged, explained. Watched only while somebody listens.

One watcher for all listeners looks at the catalogue and keeps the latest changes. A listener is a place in
them, so one that reads slowly costs no memory: once its place is forgotten, it is told to read the list anew.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from services.query import metrics, views
from services.query.audit import trail
from services.query.catalogue import Catalogue, StudyRecord
from shared.errors import SimilisError

log = logging.getLogger(__name__)

# After an archive whose walk takes long, the watcher rests longer: at most this share of the time it walks.
BUSY_SHARE: Final = 0.25
RECONNECT_MS: Final = 3000


class TooManyListenersError(Exception):
    """As many listen as a setting allows, or the service is stopping."""


@dataclass(slots=True)
class StudyNews:
    """The changes of the studies, as server-sent events. All of it belongs to one event loop.

    Attributes:
        catalogue: Whose studies are watched.
        poll_s: Pause between two looks.
        keep_alive_s: A comment is sent after this long without an event.
        stream_max_s: A stream ends after this long; a client comes back by itself, with its credentials.
        listeners_max: Open streams at the same time.
        per_user_max: Of one user, where users sign in: one must not take everybody's places.
        kept_max: Changes that are kept for listeners that read slowly or come back.
    """

    catalogue: Catalogue
    poll_s: float
    keep_alive_s: float
    stream_max_s: float
    listeners_max: int
    per_user_max: int
    kept_max: int
    _listeners: int = 0
    _by_user: Counter[str] = field(default_factory=Counter)
    _number: int = 0  # of the latest change
    _kept: deque[tuple[int, str, str]] = field(init=False)  # number, study, its summary as JSON
    _seen: dict[str, StudyRecord] | None = None
    _listing: tuple[StudyRecord, ...] = ()
    _watcher: asyncio.Task[None] | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stopped: bool = False
    # Of this run of the service: numbers of another run mean nothing here.
    _run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        """Make room for the changes."""
        self._kept = deque(maxlen=self.kept_max)

    async def join(self, user: str | None = None) -> None:
        """Take a place among the listeners; `leave` with the same user gives it back.

        Raises:
            TooManyListenersError: there is none.
            ArchiveUnavailableError: the archive cannot be read.
        """
        if self._stopped or self._listeners >= self.listeners_max:
            raise TooManyListenersError
        if user is not None:
            if self._by_user[user] >= self.per_user_max:
                raise TooManyListenersError
            self._by_user[user] += 1
        self._listeners += 1
        metrics.LISTENERS.set(self._listeners)
        if self._watcher is None:
            try:
                await self._look()
            except BaseException:
                self.leave(user)
                raise
            if self._watcher is None and not self._stopped:
                self._watcher = asyncio.create_task(self._watch())

    def leave(self, user: str | None = None) -> None:
        """Give the place back. After the last one nothing is watched."""
        if user is not None:
            self._by_user[user] -= 1
            if not self._by_user[user]:
                del self._by_user[user]
        self._listeners -= 1
        metrics.LISTENERS.set(self._listeners)

    def stop(self) -> None:
        """End all streams now, and let nobody listen any more."""
        self._stopped = True
        if self._watcher is not None:
            self._watcher.cancel()
        self._wake()

    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    async def events(
        self, last_event_id: str | None, may_listen: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[str]:
        """The text of a stream of server-sent events, for one who joined.

        Without an ID it tells what happens from now on; with the ID of an event, what happened since.
        `event: reset` says that this is not known any more. The stream ends when `may_listen` says no.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self.stream_max_s
        place = self._place_of(last_event_id)
        # The ID alone lets a client that has seen no event yet come back to this place.
        begins_at = self._number if place is None else place
        yield f": research use only\nretry: {RECONNECT_MS}\nid: {self._id(begins_at)}\n\n"
        while not self.is_stopped() and loop.time() < ends_at and may_listen():
            woken = self._woken
            if place is None or place < self._number - len(self._kept):
                place = self._number
                yield f"event: reset\nid: {self._id(place)}\ndata: {{}}\n\n"
            for number, uid, data in [one for one in self._kept if one[0] > place]:
                place = number
                metrics.EVENTS.inc()
                trail.given([uid])
                yield f"event: study\nid: {self._id(number)}\ndata: {data}\n\n"
                if self.is_stopped() or not may_listen():
                    return
            try:
                await asyncio.wait_for(woken.wait(), min(self.keep_alive_s, max(0.0, ends_at - loop.time())))
            except TimeoutError:
                yield ": keep-alive\n\n"

    def _id(self, number: int) -> str:
        return f"{self._run}-{number}"

    def _place_of(self, last_event_id: str | None) -> int | None:
        """The number of the last event that a client saw; None if that is not known."""
        if not last_event_id:
            return self._number
        run, _, number = last_event_id.rpartition("-")
        if run != self._run or not number.isascii() or not number.isdigit() or len(number) > 15:
            return None
        return int(number) if int(number) <= self._number else None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(max(self.poll_s, self.catalogue.took_s / BUSY_SHARE))
            if not self._listeners:
                self._watcher = None
                return
            try:
                await self._look()
            except SimilisError as error:
                log.warning("what is new cannot be told just now: %s", error)
            except Exception:
                log.exception("what is new could not be told")

    async def _look(self) -> None:
        """Keep what changed since the last look; the very first look only takes note of what there is."""
        async with self._looking:
            changed = await asyncio.to_thread(self._changes)
            # Of a flood of changes only the latest are kept, and put into words.
            skipped = max(0, len(changed) - self.kept_max)
            self._number += skipped
            for record in changed[skipped:]:
                self._number += 1
                self._kept.append((self._number, record.study_instance_uid, views.summary(record).model_dump_json()))
                await asyncio.sleep(0)
        if changed:
            self._wake()

    def _changes(self) -> list[StudyRecord]:
        """Studies that are not as they were, the ones received first at first."""
        listing = self.catalogue.studies()
        if self._seen is not None and listing is self._listing:
            return []
        seen, self._listing = self._seen, listing
        self._seen = {record.study_instance_uid: record for record in listing}
        if seen is None:
            return []
        return [
            record
            for record in reversed(listing)
            if (before := seen.get(record.study_instance_uid)) is not record and before != record
        ]

    def _wake(self) -> None:
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()
