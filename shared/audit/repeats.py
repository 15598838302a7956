"""Events that repeat: the first is told of at once, the like ones of the next while by their number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.audit.messages import Message

MAX_KNOWN: Final = 1000

Tell = Callable[[datetime, int], Message]
"""Makes the record of an event: when, and how many more like it there were (0: it is the first)."""


@dataclass(slots=True)
class _Repeat:
    tell: Tell
    until_s: float
    count: int = 0


class Repeats:
    """Like events by key; a thousand keys at a time. For one thread."""

    def __init__(self, *, repeat_s: float) -> None:
        self._repeat_s = repeat_s
        self._known: dict[tuple[str, ...], _Repeat] = {}

    def seen(
        self,
        when: datetime,
        key: tuple[str, ...],
        tell: Tell,
        *,
        now_s: float,
        others: tuple[tuple[str, ...], Tell] | None = None,
    ) -> list[Message]:
        """What to record of an event now.

        `others` are the key and record of what does not fit among the thousand; without, each of these is recorded.
        """
        if key not in self._known and len(self._known) >= MAX_KNOWN:
            if others is None:
                return [tell(when, 0)]
            key, tell = others
        if (known := self._known.get(key)) is not None:
            known.count += 1
            return []
        message = tell(when, 0)
        self._known[key] = _Repeat(tell, now_s + self._repeat_s)
        return [message]

    def over(self, when: datetime, *, now_s: float) -> list[Message]:
        """What to record of those whose while is over by `now_s`."""
        messages = []
        for key in [key for key, known in self._known.items() if known.until_s <= now_s]:
            known = self._known.pop(key)
            if known.count:
                messages.append(known.tell(when, known.count))
        return messages

    @property
    def next_s(self) -> float | None:
        """When the first while is over; None without any."""
        return min((known.until_s for known in self._known.values()), default=None)
