"""Closes studies when they are due, and keeps trying until each is published."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from services.listener import metrics
from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.publish import PublishStudy
from shared.errors import TransientError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Completion:
    """One task a study: a study that cannot be published holds up no other, nor its own later objects' receipt."""

    journal: Journal
    open_studies: OpenStudies
    publish: PublishStudy
    poll_s: float
    retry_s: float
    retry_max_s: float
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Watch and publish until cancelled. What was under way then is resumed by the next run."""
        failing = False
        try:
            while True:
                try:
                    await self._watch()
                    failing = False
                except Exception:
                    # This loop is what publishes: it goes on, and says so once for each run of failures.
                    metrics.WATCH_FAILURES.inc()
                    if not failing:
                        log.exception("could not look after studies and disk, trying again")
                    failing = True
                await asyncio.sleep(self.poll_s)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        for study in self.open_studies.due():
            if study not in self._tasks:
                self.open_studies.closing(study)
                self._tasks[study] = asyncio.create_task(self._close(study))
        metrics.DISK_FREE_BYTES.set(await asyncio.to_thread(self.journal.free_bytes))

    async def _close(self, study: str) -> None:
        pause_s = self.retry_s
        while True:
            try:
                manifest = await self.publish(study)
                leftover = self.journal.holds(study)
                break
            except TransientError as error:
                reason = type(error).__name__
                log.warning("study %s: not published yet, trying again in %.1f s: %s", study, pause_s, error)
            except Exception as error:
                # No failure may lose a study: it stays in the journal, and an operator sees why.
                reason = type(error).__name__
                log.exception("study %s: cannot be published, trying again in %.1f s", study, pause_s)
            metrics.PUBLISH_RETRIES.labels(reason).inc()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self.retry_max_s)
        if manifest is not None:
            log.info(
                "study %s: revision %d published, %d objects",
                study,
                manifest.revision,
                sum(1 for _ in manifest.instances()),
            )
        if leftover:
            self.open_studies.found(study)
        del self._tasks[study]
