"""From frames to stored maps: read, explain in the shared queue, measure, write."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.explainer import metrics
from services.explainer.dicom_results import key_objects, source_frame, source_header
from services.explainer.map_files import MadeMap, MapFiles, explained_frame
from services.explainer.ports import FrameExplainer, FrameExplanation, FrameRequest, TrustMeasure
from shared.archive import Archive, instance_key
from shared.errors import (
    ArchiveObjectMissingError,
    NotExplainableError,
    OversizedPixelsError,
    PermanentError,
    UndecodablePixelsError,
)
from shared.events import (
    MAX_DETAIL,
    EvidenceFrame,
    ExplanationMap,
    FailedFrame,
    FrameReference,
    ResultObject,
    StudyDiagnosed,
)
from shared.pixels.frame_reader import FrameReader
from shared.saliency.seeds import noise_seed
from shared.vision.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MapOrder:
    """What is to be made.

    Attributes:
        diagnosed: The diagnosis to explain.
        task: Its task.
        label: The class to explain.
        frames: The frames, the most important first.
        summary_key: Where the event is stored that tells of them.
        request_id: Of the request; None: the task's policy.
    """

    diagnosed: StudyDiagnosed
    task: Task
    label: str
    frames: Sequence[EvidenceFrame | FrameReference]
    summary_key: str
    request_id: UUID | None = None

    def stem(self, frame: EvidenceFrame | FrameReference) -> str:
        """How the names of a frame's files begin."""
        asked = "" if self.request_id is None else f"-{self.request_id}"
        return f"{frame.sop_instance_uid}-{frame.frame_number}{asked}"


@dataclass(frozen=True, slots=True)
class MadeMaps:
    """What came of an order: maps, frames without one, and objects that are of no single map."""

    maps: tuple[ExplanationMap, ...]
    failed: tuple[FailedFrame, ...]
    objects: tuple[ResultObject, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """A frame that was read."""

    rank: int
    key: str
    data: bytes
    frame: EvidenceFrame | FrameReference
    request: FrameRequest
    seconds: float


@dataclass(frozen=True, slots=True)
class MakeMaps:
    """Makes and stores the maps of an order."""

    archive: Archive
    explainer: FrameExplainer
    trust: TrustMeasure
    reader: FrameReader
    files: MapFiles

    def __call__(self, order: MapOrder) -> MadeMaps:
        """All maps that can be made. Takes seconds to minutes.

        Raises:
            ArchiveObjectMissingError: a frame's object is not in the archive.
            PermanentError: no frame can be explained; this is why the first cannot.
            ArchiveUnavailableError: the archive does not answer.
            DecodersUnavailableError: no decoder is to be had just now.
        """
        objects: dict[str, bytes] = {}
        sources, errors = self._read_all(order, objects)
        started = time.perf_counter()
        outcomes = self.explainer.explain_all([source.request for source in sources])
        each = (time.perf_counter() - started) / max(1, len(sources))
        made: list[tuple[MadeMap, ExplanationMap]] = []
        for source, outcome in zip(sources, outcomes, strict=True):
            try:
                finished = self._finish(order, source, outcome, each)
            except NotExplainableError as error:
                errors[source.rank] = error
                continue
            made.append((finished, self.files.write(finished)))
        if not made:
            raise errors[min(errors)]
        return MadeMaps(
            maps=tuple(stored for _, stored in made),
            failed=tuple(_failed(order.frames[rank - 1], error) for rank, error in sorted(errors.items())),
            objects=self._key_objects(order, made[0][0], objects),
        )

    def variant(self, task: Task) -> str:
        """What shapes the results of a task, besides diagnosis, frame and class: others are made anew."""
        return "|".join((self.explainer.variant, self.trust.variant(task), self.files.variant))

    def _read_all(self, order: MapOrder, objects: dict[str, bytes]) -> tuple[list[_Source], dict[int, PermanentError]]:
        """Every frame that can be read; `objects` takes what was fetched, each object once."""
        sources: list[_Source] = []
        errors: dict[int, PermanentError] = {}
        study, head = order.diagnosed.study_instance_uid, order.task.head
        for rank, frame in enumerate(order.frames, start=1):
            started = time.perf_counter()
            key = instance_key(study, frame.series_instance_uid, frame.sop_instance_uid)
            data = objects[key] if key in objects else objects.setdefault(key, self.archive.get(key))
            try:
                (pixels,) = self.reader.read(data, [frame.frame_number], key=key)
            except UndecodablePixelsError as error:
                errors[rank] = error
                continue
            seed = noise_seed(study, frame.sop_instance_uid, frame.frame_number, head.id)
            request = FrameRequest(pixels, head, order.label, seed)
            sources.append(_Source(rank, key, data, frame, request, time.perf_counter() - started))
        return sources, errors

    def _finish(
        self, order: MapOrder, source: _Source, outcome: FrameExplanation | NotExplainableError, explain_s: float
    ) -> MadeMap:
        if isinstance(outcome, NotExplainableError):
            raise outcome
        started = time.perf_counter()
        trust = self.trust(source.request, outcome, order.task)
        seconds = {"read": source.seconds, "explain": explain_s, "trust": time.perf_counter() - started}
        metrics.MAPS.labels(order.task.name).inc()
        metrics.MAP_MASKS.labels(order.task.name).observe(outcome.mask_count)
        metrics.MAP_RELIABILITY.labels(order.task.name, trust.reliability.value).inc()
        metrics.MAP_SECONDS.labels(order.task.name).observe(sum(seconds.values()))
        return MadeMap(
            diagnosed=order.diagnosed,
            task=order.task,
            label=order.label,
            frame=source.frame,
            rank=source.rank,
            stem=order.stem(source.frame),
            source=source.data,
            source_key=source.key,
            pixels=source.request.frame,
            seed=source.request.seed,
            explanation=outcome,
            trust=trust,
            seconds=seconds,
            variant=self.variant(order.task),
            request_id=order.request_id,
        )

    def _key_objects(self, order: MapOrder, first: MadeMap, objects: dict[str, bytes]) -> tuple[ResultObject, ...]:
        """The evidence frames as a Key Object Selection; not for a request, which has no evidence of its own."""
        if not self.files.dicom or order.request_id is not None:
            return ()
        try:
            frames = [source_frame(source_header(data), number) for data, number in self._evidence(order, objects)]
            selection = key_objects(frames, explained_frame(first))
        except ValueError as error:
            metrics.OBJECTS_REFUSED.labels(order.task.name).inc()
            log.warning("no Key Object Selection is made of %s: %s", order.diagnosed.study_instance_uid, error)
            return ()
        return (self.files.store(order.diagnosed, "evidence", selection),)

    def _evidence(self, order: MapOrder, objects: dict[str, bytes]) -> Iterator[tuple[bytes, int]]:
        for frame in order.diagnosed.evidence:
            key = instance_key(order.diagnosed.study_instance_uid, frame.series_instance_uid, frame.sop_instance_uid)
            try:
                yield objects[key] if key in objects else self.archive.get(key), frame.frame_number
            except ArchiveObjectMissingError:
                log.warning("%s, an evidence frame's object, is not in the archive", key)


def _failed(frame: EvidenceFrame | FrameReference, error: PermanentError) -> FailedFrame:
    reason = "undecodable"
    if isinstance(error, NotExplainableError):
        reason = "not-explainable"
    elif isinstance(error, OversizedPixelsError):
        reason = "too-large"
    return FailedFrame(
        sop_instance_uid=frame.sop_instance_uid,
        frame_number=frame.frame_number,
        reason=reason,
        detail=str(error)[:MAX_DETAIL],
    )
