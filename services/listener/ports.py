"""What the listener needs from others beside the archive, and a working fake for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from shared.errors import BrokerUnavailableError
from shared.events import Event


class Publisher(Protocol):
    """Puts events on topics."""

    async def publish(self, topic: str, event: Event) -> None:
        """Return once the broker has acknowledged `event` on `topic`.

        Raises:
            BrokerUnavailableError: no acknowledgement in time; the event may or may not be there.
        """


@dataclass(slots=True)
class MemoryPublisher:
    """A working fake: remembers what was published; fails as long as `available` is false."""

    events: list[tuple[str, Event]] = field(default_factory=list)
    available: bool = True

    async def publish(self, topic: str, event: Event) -> None:
        """Remember `event`."""
        if not self.available:
            raise BrokerUnavailableError("no broker")
        self.events.append((topic, event))
