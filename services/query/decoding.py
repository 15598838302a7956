"""Who decodes what people upload and what the archive holds: worker processes, told of by metrics."""

from __future__ import annotations

import logging

from services.query import metrics
from services.query.settings import QuerySettings
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.pixels.pool import SilentObserver
from shared.pixels.pool_process import WorkerOptions

log = logging.getLogger(__name__)


class DecodeMetrics(SilentObserver):
    """What the decode pool tells, as metrics."""

    def worker_replaced(self, reason: str) -> None:
        """A worker is replaced."""
        metrics.WORKERS_REPLACED.labels(reason).inc()
        log.warning("a decode worker is replaced: %s", reason)


def open_frame_reader(settings: QuerySettings) -> FrameReader:
    """The reader that the settings name; its workers start with its first frame, or by `start`."""
    query = settings.query
    limits = PixelLimits.of(settings.vision)
    options = WorkerOptions(None, limits, query.decode_timeout_s, query.decode_memory_bytes)
    return FrameReader.in_workers(options, query.decode_workers, DecodeMetrics())
