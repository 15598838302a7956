"""What is recorded of a request, and how often."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from pydantic import Field, PositiveFloat, PositiveInt

from services.query.audit.actions import Action
from services.query.audit.messages import Client, Messages
from services.query.audit.trail import Trail
from shared.audit import Recorder, RecorderSection, Source
from shared.audit.messages import NONE
from shared.audit.repeats import Tell

NAME: Final = "similis-query"


class AuditSection(RecorderSection):
    """The audit log (PS3.15 A.5)."""

    repeat_s: PositiveFloat = Field(
        60.0,
        description="Pictures of one study that one user sees, and like refusals, are recorded once within this time, "
        "and then as a number.",
    )
    studies_max: PositiveInt = Field(
        200, description="Most studies that the record of a search or list names; it says how many there were."
    )


class AuditLog:
    """Records who looked at what; does nothing without a file. Safe from any thread, never blocks, never raises.

    `on_dropped` is told how many records were lost, from any thread.

    Raises:
        ConfigurationError: from the constructor, the file cannot be written.
    """

    def __init__(
        self,
        section: AuditSection,
        *,
        source_id: str | None = None,
        on_dropped: Callable[[int], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._studies_max = section.studies_max
        source = Source(source_id=source_id or socket.gethostname(), name=NAME)
        self._messages = Messages(source)
        self._recorder = Recorder(section, source, on_dropped=on_dropped, now=now, monotonic=monotonic)

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self._recorder.is_on

    def acted(self, client: Client, action: Action, status: int, path_study: str | None, trail: Trail) -> None:
        """A request about studies was answered. `trail` must not change any more."""
        if action.code == "E":
            self._recorder.record(
                lambda when: [
                    self._messages.queried(when, client, action, status, trail, studies_max=self._studies_max)
                ]
            )
            return
        for study in _studies(path_study, trail):
            tell = self._access(client, action, status, study)
            if action.is_often and status < 400:
                self._recorder.repeat((client.principal, client.address, action.name, *study), tell)
            else:
                self._record(tell)

    def sign_in_failed(self, client: Client) -> None:
        """A request was answered with 401."""

        def tell(client: Client) -> Tell:
            return lambda when, repeated: self._messages.signed(when, client, 401, is_in=True, repeated=repeated)

        self._recorder.repeat(("401", client.address), tell(client), others=(("401",), tell(Client("", ""))))

    def signed(self, client: Client, status: int, *, is_in: bool) -> None:
        """A request to sign in, or out, was answered with other than 401."""

        def tell(client: Client) -> Tell:
            return lambda when, repeated: self._messages.signed(when, client, status, is_in=is_in, repeated=repeated)

        if client.principal:
            self._record(tell(client))
            return
        # Nobody signed in or out: a stranger must not fill the disk.
        key = ("session", str(is_in), str(status))
        self._recorder.repeat((*key, client.address), tell(client), others=(key, tell(Client("", ""))))

    def refused(self, client: Client) -> None:
        """A request about no study was answered with 403."""

        def tell(client: Client) -> Tell:
            return lambda when, repeated: self._messages.refused(when, client, repeated=repeated)

        key = ("403", client.principal, client.address)
        self._recorder.repeat(key, tell(client), others=(("403",), tell(Client("", ""))))

    def close(self, *, patience_s: float = 5.0) -> None:
        """Record the end, and wait this long for all to be written and durable; safe to repeat."""
        self._recorder.close(patience_s=patience_s)

    def _record(self, tell: Tell) -> None:
        self._recorder.record(lambda when: [tell(when, 0)])

    def _access(self, client: Client, action: Action, status: int, study: tuple[str, str]) -> Tell:
        return lambda when, repeated: self._messages.accessed(when, client, action, status, study, repeated=repeated)


def _studies(path_study: str | None, trail: Trail) -> Iterator[tuple[str, str]]:
    """UID and pseudonym of each study and patient; what is not known is empty."""
    uids = [path_study] if path_study is not None else list(trail) or [NONE]
    for uid in uids:
        touched = trail.get(uid)
        for pseudonym in (touched.pseudonyms if touched else ()) or ("",):
            yield uid, pseudonym
