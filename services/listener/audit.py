"""The listener's audit log: what associations did, and which were refused.

What an association did is told once, at its end. Like refusals of one peer are told of at once, and
then as a number: else a stranger could fill the disk.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import Field

from services.listener.audit_messages import Committed, Messages, Objects, Peer, source
from shared.audit import Recorder, RecorderSection
from shared.audit.repeats import Tell


class AuditSection(RecorderSection):
    """The audit log (PS3.15 A.5)."""

    accepted: bool = Field(False, description="Also record each association that is accepted.")


class AuditLog:
    """Records what happens; does nothing without a file. Safe from any thread, never blocks, never raises.

    `on_dropped` is told how many records were lost, from any thread.

    Raises:
        ConfigurationError: from the constructor, the file cannot be written.
    """

    def __init__(
        self,
        section: AuditSection,
        *,
        ae_title: str,
        source_id: str | None = None,
        on_dropped: Callable[[int], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accepted = section.accepted
        own = source(ae_title=ae_title, source_id=source_id or socket.gethostname())
        self._messages = Messages(own)
        self._recorder = Recorder(section, own, on_dropped=on_dropped, now=now, monotonic=monotonic)

    def association_accepted(self, peer: Peer) -> None:
        """An association has begun. Recorded if the settings say so."""
        if self._accepted:
            self._recorder.record(lambda when: [self._messages.accepted(when, peer)])

    def association_refused(self, peer: Peer, why: str) -> None:
        """A connection or association was refused, for a reason of a few words' vocabulary."""
        self._recorder.repeat(
            (peer.address, why), self._refusal(peer, why), others=(("", why), self._refusal(Peer(""), why))
        )

    def association_ended(self, peer: Peer, objects: Objects) -> None:
        """An association that was accepted has ended; `objects` must not change any more."""
        if objects:
            self._recorder.record(lambda when: self._messages.transferred(when, peer, objects))

    def commitment_answered(self, peer: Peer, transaction_uid: str, instances: Committed) -> None:
        """A request for storage commitment was answered; `instances` must not change any more."""
        self._recorder.record(lambda when: self._messages.committed(when, peer, transaction_uid, instances))

    def close(self, *, patience_s: float = 5.0) -> None:
        """Record the end, and wait this long for all to be written and durable; safe to repeat."""
        self._recorder.close(patience_s=patience_s)

    def _refusal(self, peer: Peer, why: str) -> Tell:
        return lambda when, repeated: self._messages.refused(when, peer, why, repeated=repeated)
