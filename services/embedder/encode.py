"""The chosen frames, decoded and encoded. One object and one batch of model inputs are in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.ports import Encoder
from services.embedder.survey import ChosenImage, Image, read_verified, skip_of
from shared.archive import Archive
from shared.errors import InvalidVectorError, NotAnImageError, UndecodablePixelsError
from shared.events import SkippedInstance
from shared.pixels import PixelLimits, iter_frames
from shared.vision.features import Features
from shared.vision.transform import to_model_input


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """Where a row of the features comes from."""

    image: Image
    number: int


@dataclass(frozen=True, slots=True)
class EncodedStudy:
    """The study's frames, N in all (maybe none), their features, and what could not be decoded."""

    frames: tuple[EncodedFrame, ...]
    features: Features
    undecoded: tuple[SkippedInstance, ...]


@dataclass(slots=True)
class _Batches:
    """Collects model inputs and encodes them by the batch."""

    encoder: Encoder
    on_progress: Callable[[], None]
    seconds: float = 0.0
    _waiting: list[NDArray[np.float32]] = field(default_factory=list)
    _parts: list[Features] = field(default_factory=list)

    def add(self, inputs: list[NDArray[np.float32]]) -> None:
        self._waiting.extend(inputs)
        while len(self._waiting) >= self.encoder.batch_size:
            self._encode(self.encoder.batch_size)

    def features(self) -> Features:
        self._encode(len(self._waiting))
        features = Features(
            np.concatenate([part.cls for part in self._parts]),
            np.concatenate([part.middle for part in self._parts]),
        )
        if not np.isfinite(features.joined()).all():
            raise InvalidVectorError("the backbone gave features that are not finite")
        return features

    def _encode(self, count: int) -> None:
        self.on_progress()
        started = time.perf_counter()
        size = self.encoder.input_size_px
        inputs = np.empty((count, 3, size, size), np.float32)
        for row, waiting in zip(inputs, self._waiting, strict=False):
            row[:] = waiting
        self._parts.append(self.encoder.encode_inputs(inputs))
        del self._waiting[:count]
        self.seconds += time.perf_counter() - started


def encode_study(
    chosen: Iterable[ChosenImage],
    archive: Archive,
    encoder: Encoder,
    limits: PixelLimits,
    on_progress: Callable[[], None],
) -> EncodedStudy:
    """Features of the chosen frames. An object is embedded whole or not at all.

    Raises:
        InvalidVectorError: the model gave a value that is not finite.
        ArchiveObjectMissingError, ArchiveObjectCorruptError, ArchiveUnavailableError: as `survey_study`.
    """
    started = time.perf_counter()
    batches = _Batches(encoder, on_progress)
    frames: list[EncodedFrame] = []
    undecoded: list[SkippedInstance] = []
    for choice in chosen:
        on_progress()
        instance = choice.image.instance
        data = read_verified(archive, instance)
        try:
            inputs = [
                to_model_input(frame, encoder.input_size_px)
                for frame in iter_frames(data, frame_numbers=choice.frame_numbers, limits=limits)
            ]
        except (NotAnImageError, UndecodablePixelsError) as error:
            undecoded.append(skip_of(instance, error))
            continue
        frames.extend(EncodedFrame(choice.image, number) for number in choice.frame_numbers)
        batches.add(inputs)
    features = batches.features()
    metrics.STAGE_SECONDS.labels("encode").observe(batches.seconds)
    metrics.STAGE_SECONDS.labels("decode").observe(time.perf_counter() - started - batches.seconds)
    return EncodedStudy(tuple(frames), features, tuple(undecoded))
