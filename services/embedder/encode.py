"""The chosen frames, decoded and encoded: the decoders run ahead while the model works on what they gave."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.batches import SharedBatches
from services.embedder.cells import CellGrid
from services.embedder.encoded_rows import Reader
from services.embedder.select_frames import ChosenImage
from services.embedder.study_objects import StudyObjects
from services.embedder.survey import Image, skip_of
from shared.errors import NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.events import MAX_DETAIL, FailedFrame, SkippedInstance
from shared.pixels import FrameError
from shared.pixels.pool_frames import DIED, TIMED_OUT, DecodeRequest, FrameDecoder, PreparedFrame
from shared.vision.features import Features
from shared.vision.frame_policy import evenly

_REASONS: Final = {OversizedPixelsError.__name__: "too-large", DIED: "decoder-died", TIMED_OUT: "timed-out"}


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """Where a row of the features comes from."""

    image: Image
    number: int


@dataclass(frozen=True, slots=True)
class EncodedStudy:
    """The study's frames, N in all (maybe none), their features, and what could not be decoded.

    Attributes:
        read: By the task's name: (N, F), what its head reads; empty without frames.
        cells: By the frame: the mean patch token, (D,), of each cell that shows something, by its number; empty where
            none were kept.
        undecoded: Objects of which no frame could be decoded.
        failed: Each frame that could not.
        notes: What their reader chose or overlooked (docs/pixels.md), by code, and in how many frames.
        decode_s: In the decoders, summed over the workers.
        encode_s: The study's share of the model's time.
        embed_s: From the first decode to the last vector.
    """

    frames: tuple[EncodedFrame, ...]
    features: Features
    read: Mapping[str, NDArray[np.float32]]
    cells: tuple[Mapping[int, NDArray[np.float32]], ...]
    undecoded: tuple[SkippedInstance, ...]
    failed: tuple[FailedFrame, ...]
    notes: Mapping[str, int]
    decode_s: float
    encode_s: float
    embed_s: float


def encode_study(
    chosen: Sequence[ChosenImage],
    objects: StudyObjects,
    decoder: FrameDecoder,
    batches: SharedBatches,
    on_progress: Callable[[], None],
    readers: Mapping[str, Reader],
    grid: CellGrid | None = None,
) -> EncodedStudy:
    """Features of the chosen frames. A frame that cannot be decoded is left out and reported.

    Args:
        chosen: The images and their frames.
        objects: Where their bytes are.
        decoder: Decodes them.
        batches: Encodes them.
        on_progress: Called as frames come and go; what it raises ends the work.
        readers: What the heads of the study's tasks read, by the task's name.
        grid: How frames are cut into cells; None: no cells are kept.

    Raises:
        InvalidVectorError: the model gave a value that is not finite.
        ArchiveObjectMissingError, ArchiveObjectCorruptError, ArchiveUnavailableError: as `survey_study`.
        DecodersUnavailableError, StoppingError: try again later.
    """
    started = time.perf_counter()
    frames: list[EncodedFrame] = []
    shown: list[tuple[int, ...]] = []
    keeps_cells = _keeps_cells(sum(len(choice.frame_numbers) for choice in chosen), grid, batches.encoder.dim)
    undecoded: list[SkippedInstance] = []
    failed: list[FailedFrame] = []
    notes: Counter[str] = Counter()
    decode_s = 0.0
    requests = (_request(choice, objects) for choice in chosen)
    with contextlib.closing(decoder.objects(requests)) as decoded, batches.study(on_progress, readers) as rows:
        for choice, items in zip(chosen, decoded, strict=True):
            on_progress()
            first_error: FrameError | None = None
            count = 0
            try:
                for item in items:
                    if isinstance(item, PreparedFrame):
                        cells = grid.shown(item.square, item.content) if grid and next(keeps_cells) else None
                        rows.add(item.square, cells.weights if cells else None)
                        shown.append(cells.numbers if cells else ())
                        frames.append(EncodedFrame(choice.image, item.number))
                        notes.update(set(item.notes))
                        decode_s += item.seconds
                        count += 1
                    else:
                        first_error = first_error or item
                        failed.append(_failed(choice.image, item))
            except (NotAnImageError, UndecodablePixelsError) as error:
                undecoded.append(skip_of(choice.image.instance, error))
                continue
            if first_error is not None and not count:
                undecoded.append(skip_of(choice.image.instance, _error(first_error)))
        found = rows.encoded()
    encoded = EncodedStudy(
        tuple(frames),
        found.features,
        found.read,
        # Without patch tokens nothing was pooled.
        tuple(dict(zip(*of_frame, strict=False)) for of_frame in zip(shown, found.pooled, strict=True)),
        tuple(undecoded),
        tuple(failed),
        notes,
        decode_s,
        rows.seconds,
        time.perf_counter() - started,
    )
    for stage in ("decode", "encode", "embed"):
        metrics.STAGE_SECONDS.labels(stage).observe(getattr(encoded, f"{stage}_s"))
    return encoded


def _keeps_cells(count: int, grid: CellGrid | None, dim: int) -> Iterator[bool]:
    """For each of `count` frames whether its cells are kept: see `KEPT_BYTES_MAX`."""
    kept = set(evenly(count, grid.frames_kept_max(dim))) if grid else set()
    return (place in kept for place in range(count))


def _request(choice: ChosenImage, objects: StudyObjects) -> DecodeRequest:
    instance = choice.image.instance
    return DecodeRequest(instance.archive_key, objects.source(instance), instance.sha256, choice.frame_numbers)


def _failed(image: Image, error: FrameError) -> FailedFrame:
    return FailedFrame(
        sop_instance_uid=image.instance.sop_instance_uid,
        frame_number=error.number,
        reason=_REASONS.get(error.reason, "undecodable"),
        detail=error.message[:MAX_DETAIL],
    )


def _error(found: FrameError) -> UndecodablePixelsError:
    kind = OversizedPixelsError if found.reason == OversizedPixelsError.__name__ else UndecodablePixelsError
    return kind(found.message)
