"""Refusals that repeat: the first is told of at once, the like ones of the next while by their number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.listener.audit_messages import Message, Messages, Peer

_MAX_KNOWN: Final = 1000


@dataclass(slots=True)
class _Repeat:
    peer: Peer
    until_s: float
    count: int = 0


class Repeats:
    """Refusals by address and reason; beyond a thousand of these, by reason alone. For one thread."""

    def __init__(self, messages: Messages, *, repeat_s: float) -> None:
        self._messages = messages
        self._repeat_s = repeat_s
        self._known: dict[tuple[str, str], _Repeat] = {}

    def refused(self, when: datetime, peer: Peer, why: str, *, now_s: float) -> list[Message]:
        """What to record of a refusal now."""
        key = (peer.address, why)
        if key not in self._known and len(self._known) >= _MAX_KNOWN:
            key, peer = ("", why), Peer("")
        if (known := self._known.get(key)) is not None:
            known.count += 1
            return []
        self._known[key] = _Repeat(peer, now_s + self._repeat_s)
        return [self._messages.refused(when, peer, why)]

    def over(self, when: datetime, *, now_s: float) -> list[Message]:
        """What to record of those whose while is over by `now_s`."""
        messages = []
        for key in [key for key, known in self._known.items() if known.until_s <= now_s]:
            known = self._known.pop(key)
            if known.count:
                messages.append(self._messages.refused(when, known.peer, key[1], repeated=known.count))
        return messages

    @property
    def next_s(self) -> float | None:
        """When the first while is over; None without any."""
        return min((known.until_s for known in self._known.values()), default=None)
