"""Composition: settings, backbone, tasks, index, archive, Kafka; then embed until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from services.embedder import metrics
from services.embedder.handlers import OnStudyReceived, Progress
from services.embedder.settings import EmbedderSection, EmbedderSettings
from shared import topics
from shared.archive import Archive, open_archive
from shared.delivery import EventConsumer, EventPublisher
from shared.errors import ConfigurationError
from shared.events import StudyReceived
from shared.health import Health, monitoring_server, write_endpoints
from shared.logs import configure_logging
from shared.pixels import PixelLimits
from shared.pixels.pool import DecodePool
from shared.pixels.pool_frames import DecodeInProcess, FrameDecoder
from shared.pixels.pool_process import WorkerOptions

if TYPE_CHECKING:
    from services.embedder.embed_study import EmbedStudy

log = logging.getLogger(__name__)

NAME: Final = "embedder"
MOST_DEFAULT_WORKERS: Final = 8


def main() -> None:
    """Run the embedder until SIGTERM or SIGINT; exit 2 if a setting is wrong, 1 if the model's thread ended."""
    try:
        settings = EmbedderSettings()
        configure_logging(NAME, log_format=settings.log_format, level=settings.log_level)
        asyncio.run(run(settings))
    except (ConfigurationError, ValidationError) as error:
        print(f"similis {NAME}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


async def run(settings: EmbedderSettings) -> None:
    """Load the model, join the group, embed; until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the settings, the weights or a task cannot be used.
        SystemExit: the model's thread ended; a new process must take over.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health(stuck_after_s=settings.embedder.stuck_after_s)
    progress = Progress(health, lambda: _stop_from_thread(loop, stop))
    archive = open_archive(settings.archive)
    async with (
        monitoring_server(health, settings.monitoring.host, settings.monitoring.port) as url,
        contextlib.AsyncExitStack() as stack,
    ):
        embed = await asyncio.to_thread(build_step, settings, archive, progress)
        stack.callback(embed.close)
        second = await asyncio.to_thread(build_second, settings, embed, progress)
        if second is not None:
            stack.callback(second.close)
        publisher = EventPublisher(settings.kafka, source=NAME)
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        consumer = EventConsumer(
            settings.kafka,
            group=f"similis-{NAME}",
            source=NAME,
            health=health,
            at_once=settings.embedder.studies_at_once,
        )
        handler = OnStudyReceived(embed, publisher, second.settle if second is not None else None)
        consumer.subscribe(topics.STUDY_RECEIVED, StudyReceived, handler)
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        stack.callback(progress.stop)
        health.ready = True
        write_endpoints(settings.endpoint_file, {"metrics": f"{url}/metrics"})
        names = ", ".join(task.name for task in embed.tasks) or "none"
        log.info("embedding with %s; tasks: %s (research use only)", embed.encoder.id, names)
        await stop.wait()
        health.ready = False
        log.info("stopping")
    if health.failed:
        raise SystemExit(1)


def _stop_from_thread(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.call_soon_threadsafe(stop.set)


def build_step(settings: EmbedderSettings, archive: Archive, progress: Progress) -> EmbedStudy:
    """Load the backbone and the tasks, open the index, start the decode workers. Blocks for seconds.

    Raises:
        ConfigurationError: no vector engine is set, a task is not valid, or the decode workers do not start.
        WeightsError: the backbone or a head is missing or not the pinned one.
    """
    # Torch takes seconds to import: the monitoring port answers meanwhile.
    from services.embedder.batches import SharedBatches
    from services.embedder.embed_study import EmbedStudy
    from services.embedder.indexes import open_collections
    from shared.vision.backbone import load_backbone
    from shared.vision.tasks import load_tasks

    vision, section = settings.vision, settings.embedder
    backbone = load_backbone(vision)
    limits = PixelLimits.of(vision)
    tasks = load_tasks(vision.tasks_dir, backbone.id)
    index, derived = open_collections(settings, backbone, tasks)
    return EmbedStudy(
        archive=archive,
        encoder=backbone,
        tasks=tasks,
        index=index,
        derived=derived,
        limits=limits,
        max_frames_per_series=vision.max_frames_per_study,
        upsert_points=section.upsert_points,
        max_evidence_frames=section.max_evidence_frames,
        max_listed_skips=section.max_listed_skips,
        on_progress=progress,
        # Last, since only a step that is built is closed.
        decoder=open_decoder(section, backbone.input_size_px, limits),
        batches=SharedBatches(backbone, section.batch_wait_s, check_stop=progress.check, on_failure=progress.fail),
    )


def build_second(settings: EmbedderSettings, first: EmbedStudy, progress: Progress) -> EmbedStudy | None:
    """What indexes new studies by the backbone of the section `next`, too; None: there is none. Blocks for seconds.

    Raises:
        WeightsError: the backbone is missing or not the pinned one.
    """
    from services.embedder.second_backbone import open_second
    from shared.vision.weights import backbone_id

    vision = settings.next.vision(settings.vision)
    if vision is None or first.decoder is None:
        return None
    if backbone_id(vision) == first.encoder.id:
        log.warning("SIMILIS_NEXT__BACKBONE is the backbone that judges: studies are indexed by it alone")
        return None
    second = open_second(
        settings,
        vision,
        first.archive,
        first.tasks,
        first.decoder,
        on_progress=progress,
        check_stop=progress.check,
        on_failure=progress.fail,
    )
    log.info("new studies are indexed by %s, too", second.encoder.id)
    return second


class DecodeMetrics:
    """What the decode pool tells, as metrics."""

    def queued(self, objects: int) -> None:
        """So many objects wait for a worker or are with one."""
        metrics.DECODE_QUEUE.set(objects)

    def worker_replaced(self, reason: str) -> None:
        """A worker is replaced."""
        metrics.WORKERS_REPLACED.labels(reason).inc()
        log.warning("a decode worker is replaced: %s", reason)


def open_decoder(section: EmbedderSection, size_px: int, limits: PixelLimits) -> FrameDecoder:
    """The decoder that the settings name.

    Raises:
        ConfigurationError: its workers do not start.
    """
    workers = section.decode_workers
    if workers is None:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(usable, MOST_DEFAULT_WORKERS)
    if workers == 0:
        return DecodeInProcess(size_px, limits)
    options = WorkerOptions(size_px, limits, section.decode_timeout_s, section.decode_memory_bytes)
    return DecodePool(options, workers, DecodeMetrics())
