"""The writer of an audit log: one JSON object a line, written by a thread of its own.

    caller's thread ─▶ bounded queue ─▶ writer ─▶ file
                            └▶ full

Nobody waits for it: while the disk fails, records wait in the queue, and what the queue does not
take is lost, counted, and told of before the next record that is written.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from shared.audit.codes import SERIOUS, SUCCESS
from shared.audit.line_file import LineFile
from shared.audit.messages import Message, Source
from shared.audit.repeats import Repeats, Tell
from shared.errors import ConfigurationError
from shared.settings import Section

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0

Build = Callable[[], Iterable[Message]]


class RecorderSection(Section):
    """Where an audit log (PS3.15 A.5) is written, and how."""

    file: Path | None = Field(
        None, description="File of JSON lines, 0600, to append to; for logrotate to rotate. Unset: no audit log."
    )
    fsync: Literal["each", "interval"] = Field(
        "interval", description="each: whatever is written is made durable at once; interval: every `fsync_s`."
    )
    fsync_s: PositiveFloat = Field(1.0, description="With interval: longest time until a record is durable.")
    queue_records: PositiveInt = Field(10_000, description="Records that may wait to be written; more are lost.")
    repeat_s: PositiveFloat = Field(
        60.0, description="Like refusals of one address within this time are recorded once, and then as a number."
    )


class Recorder:
    """Writes records; does nothing without a file. Safe from any thread, never blocks, never raises.

    `on_dropped` is told how many records were lost, from any thread.

    Raises:
        ConfigurationError: from the constructor, the file cannot be written.
    """

    def __init__(
        self,
        section: RecorderSection,
        source: Source,
        *,
        on_dropped: Callable[[int], None] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section = section
        self._source = source
        self._on_dropped = on_dropped
        self._now = now
        self._monotonic = monotonic
        self._waiting: deque[Build] = deque()
        self._condition = threading.Condition()
        self._is_closed = False
        self._lost = 0
        self._thread: threading.Thread | None = None
        if section.file is None:
            return
        try:
            self._file = LineFile(section.file)
        except OSError as error:
            raise ConfigurationError(f"the audit log {section.file} cannot be written: {error.strerror}") from error
        # These are the writer's alone.
        self._repeats = Repeats(repeat_s=section.repeat_s)
        self._unwritten: deque[Message] = deque()
        self._unsynced_s: float | None = None
        self._is_failing = False
        # A disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="audit-log", daemon=True)
        self._thread.start()
        when = now()
        self._put(lambda: self._beginning(when))

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self._thread is not None

    def record(self, build: Callable[[datetime], Iterable[Message]]) -> None:
        """Record what `build` makes, in the writer's thread, of the time that it is now."""
        if self.is_on:
            when = self._now()
            self._put(lambda: build(when))

    def repeat(self, key: tuple[str, ...], tell: Tell, *, others: tuple[tuple[str, ...], Tell] | None = None) -> None:
        """Record an event that may come often; see `Repeats.seen`."""
        if self.is_on:
            when = self._now()
            self._put(lambda: self._repeats.seen(when, key, tell, now_s=self._monotonic(), others=others))

    def close(self, *, patience_s: float = 5.0) -> None:
        """Record the end, and wait this long for all to be written and durable; safe to repeat."""
        if self._thread is None:
            return
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            log.error("the audit log did not end in time; %d records are not written", len(self._waiting))

    def _put(self, build: Build) -> None:
        with self._condition:
            if not self._is_closed and len(self._waiting) < self._section.queue_records:
                self._waiting.append(build)
                self._condition.notify()
                return
        self._lose(1)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            builds, is_last = self._next()
            self._unwritten += self._built(builds)
            self._unwritten += self._repeats.over(self._now(), now_s=math.inf if is_last else self._monotonic())
            if is_last:
                self._unwritten += self._end()
            self._write()
            self._sync_if_due(at_once=is_last)
        if self._unwritten:
            self._lose(len(self._unwritten))
        self._file.close()

    def _next(self) -> tuple[list[Build], bool]:
        """Wait for something to do; all that waits, and whether nothing follows."""
        with self._condition:
            if self._unwritten:
                # The disk is given time, and the queue takes what comes meanwhile.
                self._condition.wait_for(lambda: self._is_closed, _RETRY_S)
            else:
                self._condition.wait_for(lambda: self._waiting or self._is_closed, self._idle_s())
            if self._unwritten and not self._is_closed:
                return [], False
            builds = list(self._waiting)
            self._waiting.clear()
            return builds, self._is_closed

    def _idle_s(self) -> float | None:
        """How long there is nothing to do, if nothing comes."""
        dues_s = [self._repeats.next_s, None if self._unsynced_s is None else self._unsynced_s + self._section.fsync_s]
        due_s = min((one for one in dues_s if one is not None), default=None)
        return None if due_s is None else max(0.0, due_s - self._monotonic())

    def _built(self, builds: Iterable[Build]) -> list[Message]:
        messages: list[Message] = []
        for build in builds:
            try:
                messages += build()
            except Exception:
                log.exception("an audit record could not be made")
                self._lose(1)
        return messages

    def _beginning(self, when: datetime) -> list[Message]:
        policy = "at once" if self._section.fsync == "each" else f"every {self._section.fsync_s:g} s"
        description = f"audit recording started; records are made durable {policy}"
        return [
            self._source.application(when, started=True),
            self._source.recording(when, started=True, outcome=SUCCESS, description=description),
        ]

    def _end(self) -> list[Message]:
        when = self._now()
        return [
            self._source.application(when, started=False),
            self._source.recording(when, started=False, outcome=SUCCESS, description="audit recording stopped"),
        ]

    def _write(self) -> None:
        """Write what can be written; the rest stays."""
        if not self._unwritten:
            return
        try:
            self._file.follow()
            if lost := self._lost:
                description = f"{lost} audit records were lost before this one"
                self._append(
                    self._source.recording(self._now(), started=True, outcome=SERIOUS, description=description)
                )
                with self._condition:
                    self._lost -= lost
            while self._unwritten:
                self._append(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            self._failed(error)
        else:
            if self._is_failing:
                self._is_failing = False
                log.info("the audit log is written again")

    def _append(self, message: Message) -> None:
        # ASCII alone: no other character ends a line for some reader.
        self._file.append(json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode("ascii"))
        if self._unsynced_s is None:
            self._unsynced_s = self._monotonic()

    def _sync_if_due(self, *, at_once: bool) -> None:
        if self._unsynced_s is None:
            return
        if at_once or self._section.fsync == "each" or self._monotonic() - self._unsynced_s >= self._section.fsync_s:
            self._unsynced_s = None
            try:
                self._file.sync()
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        if not self._is_failing:
            log.error("the audit log %s cannot be written: %s", self._section.file, error.strerror)
        self._is_failing = True

    def _lose(self, count: int) -> None:
        with self._condition:
            self._lost += count
        self._on_dropped(count)
