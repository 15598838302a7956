"""Batches filled from several studies: one thread runs the model, each study gets its own rows back.

A batch goes to the model when it is full, when its oldest frame has waited `wait_s`, or when no study under way
has more to add. So the wait bounds what one study's slow decoder costs another, and is never spent at a study's end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from services.embedder import metrics
from services.embedder.encoded_rows import EncodedRows, Reader, Weights
from services.embedder.ports import Encoder, Square, StoppingError
from shared.errors import InvalidVectorError
from shared.vision.features import Features

log = logging.getLogger(__name__)

# Batches of decoded frames that wait for the model; then the decoders wait.
BATCHES_AHEAD: Final = 4


def _nothing() -> None:
    return


class SharedBatches:
    """The model, shared by the studies under way. Safe from several threads."""

    def __init__(
        self,
        encoder: Encoder,
        wait_s: float = 0.25,
        *,
        check_stop: Callable[[], None] = _nothing,
        on_failure: Callable[[], None] = _nothing,
    ) -> None:
        """Start the model's thread.

        Args:
            encoder: The model.
            wait_s: A frame's longest wait for its batch to fill.
            check_stop: Called at least once a second while a study waits; what it raises ends the study.
            on_failure: Called, in the model's thread, if that ends before `close`; then nothing can be encoded.
        """
        self.encoder = encoder
        self._wait_s = wait_s
        self._check_stop = check_stop
        self._on_failure = on_failure
        self._failed = False
        self._changed = threading.Condition()
        self._waiting: deque[_Row] = deque()
        self._adding = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def study(self, on_progress: Callable[[], None], readers: Mapping[str, Reader] | None = None) -> StudyRows:
        """A place for one study's frames, to be used as a context manager.

        Args:
            on_progress: Called as frames come and go; what it raises ends the study.
            readers: What the heads of the study's tasks read, by the task's name.
        """
        return StudyRows(self, on_progress, readers or {})

    def close(self) -> None:
        """End the thread after the batch in hand; studies that still wait get a StoppingError."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            log.exception("the model's thread ended; nothing can be encoded any more")
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            self._on_failure()

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            metrics.BATCH_FILL.observe(len(batch) / self.encoder.batch_size)
            for part in self._encoded(batch):
                with self._changed:
                    part.study._deliver(part)
                    self._changed.notify_all()

    def _next(self) -> list[_Row] | None:
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                count, size = len(self._waiting), self.encoder.batch_size
                left_s = self._waiting[0].arrived_s + self._wait_s - now if count else None
                if count >= size or (count and self._adding == 0) or (left_s is not None and left_s <= 0):
                    batch = [self._waiting.popleft() for _ in range(min(size, count))]
                    self._changed.notify_all()
                    return batch
                self._changed.wait(left_s)
            return None

    def _encoded(self, batch: Sequence[_Row]) -> list[_Part]:
        """The batch's results, study by study; if the model fails on a mixed batch, each study is tried alone."""
        started = time.perf_counter()
        places: dict[StudyRows, list[int]] = {}
        for place, row in enumerate(batch):
            places.setdefault(row.study, []).append(place)
        try:
            features = self._features(batch)
            seconds = (time.perf_counter() - started) / len(batch)
            return [
                _read(study, features.frames(of_study), [batch[place].weights for place in of_study], seconds)
                for study, of_study in places.items()
            ]
        except Exception as error:  # noqa: BLE001 - it is raised in the threads of the studies
            if len(places) == 1:
                return [_Part(batch[0].study, error)]
            alone = ([batch[place] for place in of_study] for of_study in places.values())
            return [part for rows in alone for part in self._encoded(rows)]

    def _features(self, batch: Sequence[_Row]) -> Features:
        features = self.encoder.encode_squares([row.square for row in batch])
        if len(features.cls) != len(batch):
            raise InvalidVectorError(f"the backbone gave {len(features.cls)} vectors for {len(batch)} frames")
        return features


class StudyRows:
    """One study's frames on their way through the model, in order."""

    def __init__(self, batches: SharedBatches, on_progress: Callable[[], None], readers: Mapping[str, Reader]) -> None:
        """Made by `SharedBatches.study`."""
        self._batches = batches
        self._on_progress = on_progress
        self.readers = readers
        self._added = 0
        self._is_adding = False
        self._finished = 0
        self._parts: list[EncodedRows] = []
        self._error: Exception | None = None
        self.seconds = 0.0

    def __enter__(self) -> Self:
        with self._batches._changed:
            self._batches._adding += 1
            self._is_adding = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        batches = self._batches
        with batches._changed:
            self._end_adding()
            left = [row for row in batches._waiting if row.study is not self]
            batches._waiting.clear()
            batches._waiting.extend(left)
            batches._changed.notify_all()

    def add(self, square: Square, weights: Weights | None = None) -> None:
        """Hand over one frame, and what is to be pooled of its patch tokens; waits while the model is far behind.

        Raises:
            StoppingError: the service stops. What the model raised is raised too.
        """
        batches = self._batches
        self._on_progress()
        with batches._changed:
            while len(batches._waiting) >= BATCHES_AHEAD * batches.encoder.batch_size:
                self._check()
                batches._changed.wait(1.0)
            self._check()
            batches._waiting.append(_Row(self, square, weights, time.monotonic()))
            self._added += 1
            batches._changed.notify_all()

    def encoded(self) -> EncodedRows:
        """The features of all frames added, in their order; waits for them.

        Raises:
            InvalidVectorError: some are not finite.
            StoppingError: the service stops. What the model raised is raised too.
        """
        batches = self._batches
        with batches._changed:
            self._end_adding()
            batches._changed.notify_all()
        seen = 0
        while True:
            with batches._changed:
                while self._finished == seen < self._added:
                    self._check()
                    batches._changed.wait(1.0)
                self._check()
                seen = self._finished
            if seen >= self._added:
                break
            self._on_progress()
        if not self._parts:
            return EncodedRows.none(batches.encoder.dim)
        encoded = EncodedRows.concatenated(self._parts)
        if not encoded.is_finite():
            raise InvalidVectorError("the backbone gave features that are not finite")
        return encoded

    def _deliver(self, part: _Part) -> None:
        self.seconds += part.seconds
        if isinstance(part.found, Exception):
            self._error = part.found
        else:
            self._parts.append(part.found)
            self._finished += len(part.found.features.cls)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._batches._failed:
            raise StoppingError("the model's thread ended; the embedder must start anew")
        if self._batches._closing:
            raise StoppingError("the embedder is stopping")
        self._batches._check_stop()

    def _end_adding(self) -> None:
        if self._is_adding:
            self._is_adding = False
            self._batches._adding -= 1


@dataclass(frozen=True, slots=True)
class _Row:
    study: StudyRows
    square: Square
    weights: Weights | None
    arrived_s: float


@dataclass(frozen=True, slots=True)
class _Part:
    """What a study gets of a batch."""

    study: StudyRows
    found: EncodedRows | Exception
    seconds: float = 0.0


def _read(study: StudyRows, features: Features, weights: Sequence[Weights | None], seconds: float) -> _Part:
    """What one study gets of a batch that took `seconds` a frame."""
    try:
        found = EncodedRows.of(features, study.readers, weights)
    except Exception as error:  # noqa: BLE001 - it is raised in the study's own thread
        return _Part(study, error)
    return _Part(study, found, seconds * len(weights))
