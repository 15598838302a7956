"""A second backbone beside the one that judges, while the service changes from one to the other.

It judges nothing: its points carry the archived diagnoses, whoever made them, and it has no task spaces, which hold
only what their own heads said. It decodes by itself: a frame is decoded twice while there are two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.embedder.batches import SharedBatches
from services.embedder.embed_study import EmbedStudy
from services.embedder.indexes import open_collections
from services.embedder.settings import EmbedderSettings
from shared.archive import Archive
from shared.pixels import PixelLimits
from shared.pixels.pool_frames import FrameDecoder
from shared.settings import VisionSettings
from shared.vision.backbone import load_backbone
from shared.vision.tasks import Task


def open_second(
    settings: EmbedderSettings,
    vision: VisionSettings,
    archive: Archive,
    tasks: Sequence[Task],
    decoder: FrameDecoder,
    *,
    on_progress: Callable[[], None],
    check_stop: Callable[[], None],
    on_failure: Callable[[], None],
) -> EmbedStudy:
    """Load the second backbone and open its collections. Blocks for seconds. Its `settle` indexes a study.

    Args:
        settings: As the embedder has them.
        vision: Of this backbone.
        archive: Where studies and diagnoses are.
        tasks: Those that judge: what they judge by is indexed here too.
        decoder: Its frames.
        on_progress: Called often while work goes on; what it raises ends the work.
        check_stop: Called while it waits; what it raises ends the work.
        on_failure: Called if the model's thread ends; then nothing can be encoded.

    Raises:
        ConfigurationError: no vector engine is set.
        WeightsError: the backbone is missing or not the pinned one.
    """
    backbone = load_backbone(vision)
    index, derived = open_collections(settings, backbone)
    return EmbedStudy(
        archive=archive,
        encoder=backbone,
        tasks=tuple(tasks),
        index=index,
        derived=derived,
        limits=PixelLimits.of(vision),
        max_frames_per_series=vision.max_frames_per_study,
        upsert_points=settings.embedder.upsert_points,
        on_progress=on_progress,
        decoder=decoder,
        batches=SharedBatches(backbone, settings.embedder.batch_wait_s, check_stop=check_stop, on_failure=on_failure),
        follows_any=True,
    )
