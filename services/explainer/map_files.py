"""What is stored of a map: the array, the picture, the record, and DICOM objects for the source's study.

<stem>.npy           float32 map on the model's grid
<stem>.png           overlay
<stem>.json          record: everything that reproduces the map
<stem>.<kind>.dcm    see `dicom_results`
"""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import dataclass
from importlib.metadata import version
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from services.explainer import metrics
from services.explainer.dicom_results import DicomResult, ExplainedFrame, frame_results, grid_to_source, source_header
from services.explainer.overlay import Overlay, OverlayStyle, draw_overlay
from services.explainer.ports import FrameExplanation, Trust
from services.explainer.record import LetterboxRecord, MapRecord
from shared import events
from shared.archive import Archive, explanation_key
from shared.events import EvidenceFrame, ExplanationMap, FrameReference, ResultKind, ResultObject, StudyDiagnosed
from shared.pixels.frame import Frame
from shared.vision.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MadeMap:
    """One map with all that it came from.

    Attributes:
        diagnosed: The diagnosis that is explained.
        task: Its task.
        label: The explained class.
        frame: Which frame of the study.
        rank: Its place among the explained frames, from 1.
        stem: Of the names of its files.
        source: The archived object.
        source_key: Its archive key.
        pixels: The frame.
        seed: Of the noise.
        explanation: The map.
        trust: How far it can be trusted.
        seconds: What it took: reading, explaining, trusting.
        variant: What shaped it, of `MakeMaps.variant`.
        request_id: Of the request; None: the task's policy.
    """

    diagnosed: StudyDiagnosed
    task: Task
    label: str
    frame: EvidenceFrame | FrameReference
    rank: int
    stem: str
    source: bytes
    source_key: str
    pixels: Frame
    seed: int
    explanation: FrameExplanation
    trust: Trust
    seconds: dict[str, float]
    variant: str
    request_id: UUID | None


@dataclass(frozen=True, slots=True)
class MapFiles:
    """Writes maps to the archive; the same map gives the same files.

    Attributes:
        archive: Where to.
        style: Of the overlays.
        dicom: Whether DICOM objects are made.
        region_share: Of the SEG, see `dicom_results.frame_results`.
    """

    archive: Archive
    style: OverlayStyle
    dicom: bool
    region_share: float

    @property
    def variant(self) -> str:
        """What shapes the files of a map."""
        return f"{self.style}|{self.dicom}|{self.region_share}|{version('similis')}"

    def write(self, made: MadeMap) -> ExplanationMap:
        """Store everything of one map.

        Raises:
            ArchiveUnavailableError: the archive does not answer.
        """
        overlay = draw_overlay(made.pixels, made.explanation, made.label, made.task.name, self.style, made.trust)
        stored = ExplanationMap(
            series_instance_uid=made.frame.series_instance_uid,
            sop_instance_uid=made.frame.sop_instance_uid,
            frame_number=made.frame.frame_number,
            target_label=made.label,
            map_key=self._key(made, "npy"),
            overlay_key=self._key(made, "png"),
            record_key=self._key(made, "json"),
            method=made.explanation.method,
            mode=made.explanation.mode,
            seed=made.seed,
            mask_count=int(made.explanation.scale),
            value_min=float(made.explanation.values.min()),
            value_max=float(made.explanation.values.max()),
            faithfulness=made.trust.faithfulness,
            reliability=made.trust.reliability,
            reliability_reason=made.trust.reason,
            objects=self._objects(made, overlay),
        )
        self.archive.put(stored.map_key, npy_bytes(made.explanation.values))
        self.archive.put(stored.overlay_key, overlay.png)
        self.archive.put(stored.record_key, _record(made, stored, overlay).model_dump_json(indent=2).encode())
        return stored

    def store(self, diagnosed: StudyDiagnosed, stem: str, result: DicomResult) -> ResultObject:
        """Store one DICOM object.

        Raises:
            ArchiveUnavailableError: the archive does not answer.
        """
        name = f"{stem}.{result.kind}.dcm"
        key = explanation_key(diagnosed.study_instance_uid, diagnosed.revision, diagnosed.task, name)
        self.archive.put(key, result.data)
        return ResultObject(
            kind=ResultKind(result.kind),
            sop_class_uid=result.sop_class_uid,
            series_instance_uid=result.series_instance_uid,
            sop_instance_uid=result.sop_instance_uid,
            key=key,
        )

    def _objects(self, made: MadeMap, overlay: Overlay) -> tuple[ResultObject, ...]:
        if not self.dicom:
            return ()
        scale = made.explanation.scale
        try:
            results = frame_results(
                source_header(made.source),
                explained_frame(made),
                made.explanation.values,
                made.explanation.letterbox,
                overlay.png,
                window=(overlay.scale["low"] / scale, overlay.scale["high"] / scale),
                region_share=self.region_share,
            )
        except ValueError as error:
            # A source with a header that no derived object can be hung on: map and picture are there all the same.
            metrics.OBJECTS_REFUSED.labels(made.task.name).inc()
            log.warning("no DICOM objects are made of %s: %s", made.source_key, error)
            return ()
        return tuple(self.store(made.diagnosed, made.stem, result) for result in results)

    def _key(self, made: MadeMap, suffix: str) -> str:
        diagnosed = made.diagnosed
        name = f"{made.stem}.{suffix}"
        return explanation_key(diagnosed.study_instance_uid, diagnosed.revision, diagnosed.task, name)


def explained_frame(made: MadeMap) -> ExplainedFrame:
    """What the DICOM objects of a map say of it."""
    diagnosed, task = made.diagnosed, made.task
    finding = next((entry.code for entry in task.definition.classes if entry.label == made.label), None)
    probability = next((score.probability for score in diagnosed.classes if score.label == made.label), None)
    hashes = {"head": task.head_sha256, "model card": task.card_sha256}
    return ExplainedFrame(
        diagnosis_event_id=diagnosed.event_id,
        diagnosed_at=diagnosed.occurred_at,
        task=task.name,
        label=made.label,
        finding=finding,
        frame_probability=made.explanation.probability,
        study_probability=probability,
        classes=diagnosed.classes,
        backbone_id=diagnosed.backbone_id,
        head_id=task.head.id,
        hashes={name: value for name, value in hashes.items() if value is not None},
        method=made.explanation.method,
        mode=made.explanation.mode,
        seed=made.seed,
        mask_count=made.explanation.mask_count or None,
        frame_number=made.frame.frame_number,
        rank=made.rank,
        software_version=version("similis"),
        reliability=made.trust.reliability,
        reliability_reason=made.trust.reason,
        faithfulness=made.trust.faithfulness,
        parameters=made.explanation.parameters,
        variant=made.variant,
        request_id=made.request_id,
    )


def npy_bytes(values: NDArray[np.float32]) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _record(made: MadeMap, stored: ExplanationMap, overlay: Overlay) -> MapRecord:
    explanation = made.explanation
    return MapRecord(
        method=explanation.method,
        mode=explanation.mode,
        seed=made.seed,
        parameters=explanation.parameters,
        task=made.task.name,
        target_label=made.label,
        target_probability=explanation.probability,
        backbone_id=made.diagnosed.backbone_id,
        head_id=made.task.head.id,
        diagnosis_event_id=made.diagnosed.event_id,
        study_instance_uid=made.diagnosed.study_instance_uid,
        series_instance_uid=made.frame.series_instance_uid,
        sop_instance_uid=made.frame.sop_instance_uid,
        frame_number=made.frame.frame_number,
        instance_key=made.source_key,
        instance_sha256=hashlib.sha256(made.source).hexdigest(),
        map_shape=(explanation.values.shape[0], explanation.values.shape[1]),
        letterbox=LetterboxRecord.model_validate(explanation.letterbox),
        grid_to_source=_affine(made),
        mask_count=explanation.mask_count,
        forwards=explanation.forwards,
        value_min=stored.value_min,
        value_max=stored.value_max,
        reliability=made.trust.reliability,
        reliability_reason=made.trust.reason,
        trust=made.trust.facts,
        overlay_scale=overlay.scale,
        objects=stored.objects,
        seconds=made.seconds,
        created_at=events.now(),
    )


def _affine(made: MadeMap) -> list[list[float]]:
    rows, columns = made.pixels.pixels.shape[:2]
    affine: list[list[float]] = grid_to_source(made.explanation.letterbox, rows, columns).tolist()
    return affine
