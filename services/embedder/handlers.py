"""From event to step and back.

The step runs in a thread, so that heartbeats go on; its events go out before the offset is committed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from services.embedder import metrics
from services.embedder.ports import Publisher, StoppingError
from shared import topics
from shared.events import StudyDiagnosed, StudyReceived
from shared.health import Health


@dataclass(slots=True)
class Progress:
    """Called while a study is under way: shows that the service lives, and ends the work on stop.

    Attributes:
        on_failure: Called, in any thread, when the service cannot go on.
    """

    health: Health
    on_failure: Callable[[], None] = lambda: None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        """Note that work moved on.

        Raises:
            StoppingError: `stop` was called.
        """
        self.check()
        self.health.progress(busy=True)

    def check(self) -> None:
        """Raise StoppingError if `stop` was called; that nothing moved on still counts."""
        if self._stop.is_set():
            raise StoppingError("the embedder is stopping")

    def stop(self) -> None:
        """Let the work under way end at its next sign of progress."""
        self._stop.set()

    def fail(self) -> None:
        """The service cannot go on: the work under way ends, and /livez fails until the process does."""
        self.health.fail()
        self.stop()
        self.on_failure()


@dataclass(frozen=True, slots=True)
class OnStudyReceived:
    """Embeds a study and publishes its diagnoses, each on its task's topic.

    The delivery hands over a few studies at once; events of one study come one after the other.

    Attributes:
        index_again: Indexes the study by the second backbone, if there is one. No diagnosis waits for it, but the
            event is done only when it is.
    """

    embed: Callable[[StudyReceived], tuple[StudyDiagnosed, ...]]
    publisher: Publisher
    index_again: Callable[[str], bool] | None = None

    async def __call__(self, received: StudyReceived) -> None:
        """Handle one study; safe to repeat."""
        for diagnosed in await asyncio.to_thread(self.embed, received):
            await self.publisher.publish(topics.diagnosis(diagnosed.task).name, diagnosed)
        if self.index_again is not None and await asyncio.to_thread(self.index_again, received.study_instance_uid):
            metrics.INDEXED_AGAIN.inc()
