"""What the listener's parts need from each other and from outside, and working fakes for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from shared.errors import BrokerUnavailableError
from shared.events import Event

if TYPE_CHECKING:
    from services.listener.association import Association
    from services.listener.dimse import Command
    from services.listener.store import Reception, StoreRequest


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


class Receiver(Protocol):
    """Takes objects."""

    def begin(self, request: StoreRequest) -> Reception:
        """An object begins to arrive. Never raises: what fails is answered at its end."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Why an association is not accepted: the fields of an A-ASSOCIATE-RJ (PS3.8 table 9-21) and a word for it."""

    result: int
    source: int
    reason: int
    why: str


class Admission(Protocol):
    """Says which associations are accepted."""

    def admit(self, association: Association) -> Reject | None:
        """Whether `association`, whose AE titles and peer address are known, is accepted; then `left` follows."""

    def left(self, association: Association) -> None:
        """An association that asked to be admitted, and was not rejected, has ended."""


class CommitmentRequests(Protocol):
    """Takes requests for storage commitment: PS3.4 annex J."""

    def requested(self, association: Association, command: Command, data_set: bytes, transfer_syntax_uid: str) -> int:
        """The status of an N-ACTION-RSP. After Success the report comes later, even after a restart."""
