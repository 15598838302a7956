"""Which studies are open, and when each is to be closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.listener import metrics

# (quiet_s, max_age_s) of studies from an AE title; None: the common one.
Overrides = Callable[[str], tuple[float | None, float | None]]


def no_overrides(calling_ae_title: str) -> tuple[float | None, float | None]:
    """Every sender's studies close by the common times."""
    return None, None


@dataclass(slots=True)
class _Times:
    first_s: float
    last_s: float
    quiet_s: float
    max_age_s: float
    is_awaited: bool = False


@dataclass(slots=True)
class OpenStudies:
    """Times of arrival by study, and the associations that carry each. Safe to use from any thread.

    A study is due once it has been quiet for `quiet_s` with no open association that carried it,
    or once its first object is `max_age_s` old. `overrides` gives other times by the AE title that
    sent the first object. For a study that is awaited, open associations do not count.
    """

    quiet_s: float
    max_age_s: float
    overrides: Overrides = no_overrides
    clock: Callable[[], float] = time.monotonic
    _times: dict[str, _Times] = field(default_factory=dict)
    _carried_by: dict[int, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stored(self, study: str, association: int, calling_ae_title: str = "") -> None:
        """An object of `study` came by `association`."""
        with self._lock:
            self._touch(study, calling_ae_title)
            self._carried_by.setdefault(association, set()).add(study)

    def repeated(self, study: str, association: int) -> None:
        """A known object came again: it keeps an open study open, but opens none."""
        with self._lock:
            if study in self._times:
                self._touch(study, "")
                self._carried_by.setdefault(association, set()).add(study)

    def found(self, study: str, calling_ae_title: str = "") -> None:
        """The journal holds objects of `study`, from an earlier run or beyond the published revision."""
        with self._lock:
            if study not in self._times:
                self._touch(study, calling_ae_title)

    def awaited(self, study: str) -> None:
        """Someone waits until `study` is archived, perhaps on the very association that carries it.

        Only its quiet time is left to wait for: a sender that asks for storage commitment has sent
        what it asks for. It is not closed at once, as some senders ask after each object.
        """
        with self._lock:
            if (times := self._times.get(study)) is not None:
                times.is_awaited = True

    def association_closed(self, association: int) -> None:
        """Nothing more comes by `association`."""
        with self._lock:
            self._carried_by.pop(association, None)

    def due(self) -> list[str]:
        """The studies to close now, the oldest first."""
        with self._lock:
            now = self.clock()
            carried = set().union(*self._carried_by.values())
            found = [
                (times.first_s, study)
                for study, times in self._times.items()
                if now - times.first_s >= times.max_age_s
                or (now - times.last_s >= times.quiet_s and (times.is_awaited or study not in carried))
            ]
            return [study for _, study in sorted(found)]

    def closing(self, study: str) -> None:
        """`study` is being published; what comes from now on opens it again."""
        with self._lock:
            self._times.pop(study, None)
            metrics.STUDIES_OPEN.set(len(self._times))

    def _touch(self, study: str, calling_ae_title: str) -> None:
        now = self.clock()
        if (times := self._times.get(study)) is None:
            quiet_s, max_age_s = self.overrides(calling_ae_title)
            self._times[study] = _Times(
                now,
                now,
                self.quiet_s if quiet_s is None else quiet_s,
                self.max_age_s if max_age_s is None else max_age_s,
            )
            metrics.STUDIES_OPEN.set(len(self._times))
        else:
            times.last_s = now
