"""From event to step and back: the step runs in a thread, its event goes out before the offset is committed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.explainer import metrics
from shared.errors import TransientError
from shared.events import Event, ExplanationRequested, StudyDiagnosed, StudyExplained
from shared.health import Health
from shared.topics import STUDY_EXPLAINED


class StoppingError(TransientError):
    """The service stops; the diagnosis is left for the next worker."""


class Publisher(Protocol):
    """Where events go out."""

    async def publish(self, topic: str, event: Event) -> None:
        """Return once `event` is acknowledged; raise BrokerUnavailableError otherwise."""


@dataclass(slots=True)
class Progress:
    """Called after each forward pass: counts it, shows that the service lives, and ends the work on stop."""

    health: Health
    _stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        """Note one forward pass.

        Raises:
            StoppingError: `stop` was called.
        """
        if self._stop.is_set():
            raise StoppingError("the explainer is stopping")
        metrics.FORWARD_PASSES.inc()
        self.health.progress(busy=True)

    def stop(self) -> None:
        """Let the next forward pass be the last."""
        self._stop.set()


@dataclass(frozen=True, slots=True)
class OnStudyDiagnosed:
    """Explains a diagnosis and publishes what came of it."""

    explain: Callable[[StudyDiagnosed], StudyExplained | None]
    publisher: Publisher

    async def __call__(self, diagnosed: StudyDiagnosed) -> None:
        """Handle one diagnosis; safe to repeat."""
        explained = await asyncio.to_thread(self.explain, diagnosed)
        if explained is not None:
            await self.publisher.publish(STUDY_EXPLAINED.name, explained)


@dataclass(frozen=True, slots=True)
class OnExplanationRequested:
    """Makes the maps that somebody asked for and publishes that they are there."""

    explain: Callable[[ExplanationRequested], StudyExplained]
    publisher: Publisher

    async def __call__(self, asked: ExplanationRequested) -> None:
        """Handle one request; safe to repeat."""
        explained = await asyncio.to_thread(self.explain, asked)
        await self.publisher.publish(STUDY_EXPLAINED.name, explained)
