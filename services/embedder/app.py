"""Composition: settings, backbone, tasks, index, archive, Kafka; then embed until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from services.embedder.handlers import OnStudyReceived, Progress
from services.embedder.settings import EmbedderSettings
from shared import topics
from shared.archive import Archive, open_archive
from shared.delivery import EventConsumer, EventPublisher
from shared.errors import ConfigurationError
from shared.events import StudyReceived
from shared.health import Health, monitoring_server, write_endpoints
from shared.logs import configure_logging

if TYPE_CHECKING:
    from services.embedder.embed_study import EmbedStudy

log = logging.getLogger(__name__)

NAME: Final = "embedder"


def main() -> None:
    """Run the embedder until SIGTERM or SIGINT; exit 2 if a setting is wrong."""
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
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health(stuck_after_s=settings.embedder.stuck_after_s)
    progress = Progress(health)
    archive = open_archive(settings.archive)
    async with (
        monitoring_server(health, settings.monitoring.host, settings.monitoring.port) as url,
        contextlib.AsyncExitStack() as stack,
    ):
        embed = await asyncio.to_thread(build_step, settings, archive, progress)
        publisher = EventPublisher(settings.kafka, source=NAME)
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        consumer = EventConsumer(settings.kafka, group=f"similis-{NAME}", source=NAME, health=health)
        consumer.subscribe(topics.STUDY_RECEIVED, StudyReceived, OnStudyReceived(embed, publisher))
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


def build_step(settings: EmbedderSettings, archive: Archive, progress: Progress) -> EmbedStudy:
    """Load the backbone and the tasks, open the index. Blocks for seconds.

    Raises:
        ConfigurationError: no vector engine is set, or a task is not valid.
        WeightsError: the backbone or a head is missing or not the pinned one.
    """
    # Torch takes seconds to import: the monitoring port answers meanwhile.
    from services.embedder.embed_study import EmbedStudy
    from shared.pixels import PixelLimits
    from shared.vector_index import collection_name, open_index
    from shared.vision.backbone import load_backbone
    from shared.vision.tasks import load_tasks

    vision, section = settings.vision, settings.embedder
    backbone = load_backbone(vision)
    return EmbedStudy(
        archive=archive,
        encoder=backbone,
        tasks=load_tasks(vision.tasks_dir, backbone.id),
        index=open_index(settings.qdrant, collection=collection_name(backbone.id), dim=backbone.dim),
        limits=PixelLimits.of(vision),
        max_frames_per_series=vision.max_frames_per_study,
        upsert_points=section.upsert_points,
        max_evidence_frames=section.max_evidence_frames,
        max_listed_skips=section.max_listed_skips,
        on_progress=progress,
    )
