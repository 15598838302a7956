"""Deliveries as records in the archive: what is written before anything is sent outlives the process.

    deliveries/<day>/<id>.pending.json    to be sent; rewritten after each try that failed
    deliveries/<day>/<id>.done.json       stored, or committed
    deliveries/<day>/<id>.dead.json       given up, with the reason
    deliveries/scanned.json               no delivery of an earlier day than this is unfinished

An archive only grows, so a delivery is finished by a second record beside the first. To try a dead one again,
delete its `.dead.json` and `scanned.json`, and restart. Records hold UIDs and keys, nobody's identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt, ValidationError

from services.explainer.delivery.settings import Destination
from shared import events
from shared.archive import Archive
from shared.errors import ArchiveObjectMissingError
from shared.events import ResultObject, StudyExplained
from shared.ids import NAMESPACE

log = logging.getLogger(__name__)

FOLDER: Final = "deliveries"
_MARK: Final = f"{FOLDER}/scanned.json"
_FINISHED: Final = (".done.json", ".dead.json")
# Other processes may still be writing yesterday's: clocks differ, and midnight passes.
_MARK_LAG: Final = timedelta(days=2)


class Delivery(BaseModel):
    """Objects of one explained study for one destination."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    destination: str
    study_instance_uid: str
    objects: tuple[ResultObject, ...]
    enqueued_at: AwareDatetime
    attempts: NonNegativeInt = 0
    last_error: str = ""


class Outcome(BaseModel):
    """How a delivery ended."""

    model_config = ConfigDict(frozen=True)

    delivery: Delivery
    ended_at: AwareDatetime
    committed: bool = False
    not_taken: tuple[str, ...] = ()
    reason: str = ""


class _Mark(BaseModel):
    finished_before: date


@dataclass(frozen=True, slots=True)
class DeliveryRecords:
    """The records. Every method raises ArchiveUnavailableError where the archive does not answer."""

    archive: Archive
    now: Callable[[], datetime] = events.now

    def add(self, explained: StudyExplained, destination: Destination) -> Delivery | None:
        """Note what `destination` shall get, durably. None if that is nothing, or has been delivered today."""
        wanted = [*(one for made in explained.maps for one in made.objects), *explained.objects]
        objects = tuple(one for one in wanted if one.kind in destination.kinds)
        if not objects:
            return None
        delivery = Delivery(
            id=uuid5(NAMESPACE, f"delivery|{explained.event_id}|{destination.name}"),
            destination=destination.name,
            study_instance_uid=explained.study_instance_uid,
            objects=objects,
            enqueued_at=self.now(),
        )
        if any(self.archive.exists(self._key(delivery, suffix)) for suffix in _FINISHED):
            return None
        self._put(delivery, ".pending.json", delivery)
        return delivery

    def failed(self, delivery: Delivery, error: str) -> Delivery:
        """Note a try that failed."""
        again = delivery.model_copy(update={"attempts": delivery.attempts + 1, "last_error": error})
        self._put(again, ".pending.json", again)
        return again

    def done(self, delivery: Delivery, *, committed: bool, not_taken: tuple[str, ...] = ()) -> None:
        """Note that the destination has the objects, but those of the SOP classes that it does not take."""
        ended = Outcome(delivery=delivery, ended_at=self.now(), committed=committed, not_taken=not_taken)
        self._put(delivery, ".done.json", ended)

    def dead(self, delivery: Delivery, reason: str) -> None:
        """Note that it is given up, and why. The objects stay in the archive."""
        self._put(delivery, ".dead.json", Outcome(delivery=delivery, ended_at=self.now(), reason=reason))

    def pending(self) -> Iterator[Delivery]:
        """Every delivery that is not finished, the oldest day first."""
        today = self.now().date()
        oldest: date | None = None
        for stem in self._unfinished(today):
            try:
                day = date.fromisoformat(stem.split("/")[1])
            except ValueError:
                log.warning("%s.pending.json is in no day's folder; it is left alone", stem)
                continue
            oldest = min(oldest or day, day)
            try:
                yield Delivery.model_validate_json(self.archive.get(f"{stem}.pending.json"))
            except ArchiveObjectMissingError:
                log.warning("%s.pending.json was deleted meanwhile", stem)
            except ValidationError:
                log.error("%s.pending.json is not readable; it is left alone", stem)  # noqa: TRY400
        mark = _Mark(finished_before=min(oldest or today, today - _MARK_LAG))
        if mark != self._mark():
            self.archive.put(_MARK, mark.model_dump_json().encode())

    def _unfinished(self, today: date) -> list[str]:
        """Keys without their suffix."""
        mark = self._mark()
        if mark is None:
            folders = [FOLDER]
        else:
            days = range((today - mark.finished_before).days + 2)
            folders = [f"{FOLDER}/{mark.finished_before + timedelta(days=day)}" for day in days]
        pending, finished = [], set()
        for folder in folders:
            for key in self.archive.list(folder):
                if key.endswith(".pending.json"):
                    pending.append(key.removesuffix(".pending.json"))
                elif key.endswith(_FINISHED):
                    finished.add(key.rsplit(".", 2)[0])
        return [stem for stem in pending if stem not in finished]

    def _mark(self) -> _Mark | None:
        if not self.archive.exists(_MARK):
            return None
        try:
            return _Mark.model_validate_json(self.archive.get(_MARK))
        except ValidationError:
            return None

    def _key(self, delivery: Delivery, suffix: str) -> str:
        return f"{FOLDER}/{delivery.enqueued_at.date()}/{delivery.id}{suffix}"

    def _put(self, delivery: Delivery, suffix: str, value: BaseModel) -> None:
        self.archive.put(self._key(delivery, suffix), value.model_dump_json(indent=2).encode())
