"""Composition: settings, model, tasks, archive, Kafka; then explain until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from services.explainer import metrics
from services.explainer.handlers import OnExplanationRequested, OnStudyDiagnosed, Progress
from services.explainer.settings import ExplainerSettings
from shared import topics
from shared.archive import Archive, open_archive
from shared.delivery import EventConsumer, EventPublisher
from shared.errors import ConfigurationError
from shared.events import ExplanationRequested, StudyDiagnosed
from shared.health import Health, monitoring_server, write_endpoints
from shared.logs import configure_logging
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.pixels.pool import SilentObserver
from shared.pixels.pool_process import WorkerOptions
from shared.vision.tasks import task_names

if TYPE_CHECKING:
    from services.explainer.explain_study import ExplainStudy
    from services.explainer.ports import Outbox

log = logging.getLogger(__name__)

NAME: Final = "explainer"


def main() -> None:
    """Run the explainer until SIGTERM or SIGINT; exit 2 if a setting is wrong."""
    # Read by OpenMP when torch is loaded. Beside other busy processes its spinning threads cost up to
    # as much again as the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        settings = ExplainerSettings()
        configure_logging(NAME, log_format=settings.log_format, level=settings.log_level)
        asyncio.run(run(settings))
    except (ConfigurationError, ValidationError) as error:
        print(f"similis {NAME}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


async def run(settings: ExplainerSettings) -> None:
    """Load the model, join the group, explain; until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health(stuck_after_s=settings.explainer.stuck_after_s)
    archive = open_archive(settings.archive)
    async with monitoring_server(health, settings.monitoring.host, settings.monitoring.port) as url:
        await _explain_until(stop, settings, archive, health, url)
    log.info("stopped")


async def _explain_until(
    stop: asyncio.Event, settings: ExplainerSettings, archive: Archive, health: Health, url: str
) -> None:
    from services.explainer.delivery import DeliveryOutbox

    progress = Progress(health)
    outbox = DeliveryOutbox(settings.delivery, archive)
    explain = await asyncio.to_thread(build_step, settings, archive, progress, outbox)
    if stop.is_set():
        return
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(explain.make.reader.close)
        outbox.start()
        stack.push_async_callback(asyncio.to_thread, outbox.stop)
        publisher = EventPublisher(settings.kafka, source=NAME)
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        consumer = EventConsumer(
            settings.kafka,
            group=f"similis-{NAME}",
            source=NAME,
            health=health,
            at_once=settings.explainer.studies_at_once,
        )
        handler = OnStudyDiagnosed(explain, publisher)
        for name in task_names(settings.vision.tasks_dir):
            consumer.subscribe(topics.diagnosis(name), StudyDiagnosed, handler)
        on_request = OnExplanationRequested(explain.requested, publisher)
        consumer.subscribe(topics.EXPLANATION_REQUESTED, ExplanationRequested, on_request)
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        stack.callback(progress.stop)
        health.ready = True
        write_endpoints(settings.endpoint_file, {"metrics": f"{url}/metrics"})
        log.info("explaining %s (research use only)", ", ".join(explain.tasks) or "nothing: no task is installed")
        await stop.wait()
        health.ready = False


def build_step(settings: ExplainerSettings, archive: Archive, progress: Progress, outbox: Outbox) -> ExplainStudy:
    """Load the backbone and the tasks. Blocks for seconds. Decode workers start with the first frame.

    Raises:
        WeightsError: the backbone or a head is missing or not the pinned one.
    """
    # Torch takes seconds to import: the monitoring port answers meanwhile.
    from services.explainer.explain_study import ExplainStudy
    from services.explainer.frame_explainer import SaliencyExplainer
    from services.explainer.make_maps import MakeMaps
    from services.explainer.map_files import MapFiles
    from services.explainer.overlay import OverlayStyle
    from services.explainer.trust import MeasuredTrust
    from shared.saliency.faithfulness import FaithfulnessParameters
    from shared.vision.backbone import load_backbone
    from shared.vision.tasks import load_tasks

    vision, section = settings.vision, settings.explainer
    backbone = load_backbone(vision)
    explainer = SaliencyExplainer(backbone, section, on_progress=progress)
    trust = MeasuredTrust(
        model_input=explainer.model_input,
        scorer=explainer.scorer,
        faithfulness=FaithfulnessParameters(batch_size=backbone.batch_size) if section.faithfulness else None,
        progress=progress,
    )
    style = OverlayStyle(size_px=section.overlay_size_px, span=section.overlay_span)
    files = MapFiles(archive, style, dicom=section.dicom_results, region_share=section.region_share)
    return ExplainStudy(
        archive=archive,
        tasks={task.name: task for task in load_tasks(vision.tasks_dir, backbone.id)},
        make=MakeMaps(archive, explainer, trust, open_frame_reader(settings), files),
        outbox=outbox,
    )


class DecodeMetrics(SilentObserver):
    """What the decode pool tells, as metrics."""

    def worker_replaced(self, reason: str) -> None:
        """A worker is replaced."""
        metrics.WORKERS_REPLACED.labels(reason).inc()
        log.warning("a decode worker is replaced: %s", reason)


def open_frame_reader(settings: ExplainerSettings) -> FrameReader:
    """What decodes archived frames, as the settings say; its workers start with its first frame, or by `start`."""
    section = settings.explainer
    limits = PixelLimits.of(settings.vision)
    options = WorkerOptions(None, limits, section.decode_timeout_s, section.decode_memory_bytes)
    return FrameReader.in_workers(options, section.decode_workers, DecodeMetrics())
