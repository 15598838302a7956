"""The step: a diagnosis becomes saliency maps in the archive and the event that tells of them."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from services.explainer import metrics
from services.explainer.overlay import OverlayStyle, draw_overlay
from services.explainer.ports import FrameExplainer
from services.explainer.record import LetterboxRecord, MapRecord, noise_seed
from shared import events
from shared.archive import Archive, explanation_key, instance_key
from shared.errors import ModelMismatchError, UndecodablePixelsError
from shared.events import Decision, EvidenceFrame, ExplanationMap, StudyDiagnosed, StudyExplained
from shared.pixels import PixelLimits, read_frames
from shared.pixels.frame import Frame
from shared.vision.heads import LinearHead
from shared.vision.tasks import ExplainPolicy, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExplainStudy:
    """Explains the evidence frames of one diagnosis, as its task's policy says.

    Files first, then `explained.json`, then the event: a crash between them repeats the work or the
    event, and leaves the same result.
    """

    archive: Archive
    explainer: FrameExplainer
    tasks: Mapping[str, Task]
    limits: PixelLimits
    style: OverlayStyle

    def __call__(self, diagnosed: StudyDiagnosed) -> StudyExplained | None:
        """The event to publish, or None if the policy asks for no map. Takes seconds to minutes.

        Raises:
            ModelMismatchError: another backbone or head than the ones loaded here made the diagnosis.
            ArchiveObjectMissingError: an evidence frame's object is not in the archive.
            UndecodablePixelsError: an evidence frame cannot be decoded.
            NotExplainableError: no map can be made of a frame.
            ArchiveUnavailableError: the archive does not answer.
        """
        task = self._task_of(diagnosed)
        frames = wanted_frames(diagnosed, task.definition.explain)
        if diagnosed.label is None or not frames:
            metrics.STUDIES.labels(task.name, "skipped").inc()
            return None
        summary_key = self._key(diagnosed, "explained.json")
        event_id = StudyExplained.identify(diagnosed, self.explainer.method)
        if (earlier := self._earlier(summary_key)) is not None and earlier.event_id == event_id:
            metrics.STUDIES.labels(task.name, "repeated").inc()
            return earlier
        started = time.perf_counter()
        maps = tuple(self._explain_frame(diagnosed, task.head, diagnosed.label, frame) for frame in frames)
        explained = StudyExplained(
            event_id=event_id,
            occurred_at=events.now(),
            study_instance_uid=diagnosed.study_instance_uid,
            revision=diagnosed.revision,
            task=task.name,
            label=diagnosed.label,
            maps=maps,
            backbone_id=self.explainer.backbone_id,
            head_id=task.head.id,
            duration_s=time.perf_counter() - started,
        )
        self.archive.put(summary_key, explained.model_dump_json(indent=2).encode())
        metrics.STUDIES.labels(task.name, "explained").inc()
        return explained

    def _task_of(self, diagnosed: StudyDiagnosed) -> Task:
        """The loaded task, if it made this diagnosis: a map must explain the decision that was taken."""
        task = self.tasks.get(diagnosed.task)
        if task is None:
            raise ModelMismatchError(f"the task {diagnosed.task} is not loaded with the backbone {self._backbone_id}")
        if (diagnosed.backbone_id, diagnosed.head_id) != (self._backbone_id, task.head.id):
            raise ModelMismatchError(
                f"the diagnosis was made by backbone {diagnosed.backbone_id} and head {diagnosed.head_id}; "
                f"loaded are backbone {self._backbone_id} and head {task.head.id}"
            )
        if diagnosed.label is not None and diagnosed.label not in task.head.labels:
            raise ModelMismatchError(f"the head {task.head.id} has no class {diagnosed.label!r}")
        return task

    def _explain_frame(
        self, diagnosed: StudyDiagnosed, head: LinearHead, label: str, evidence: EvidenceFrame
    ) -> ExplanationMap:
        """Make one map and store its three files."""
        study, sop, number = diagnosed.study_instance_uid, evidence.sop_instance_uid, evidence.frame_number
        started = time.perf_counter()
        source_key = instance_key(study, evidence.series_instance_uid, sop)
        data = self.archive.get(source_key)
        frame = self._read(data, number)
        read = time.perf_counter()
        seed = noise_seed(study, sop, number, head.id)
        explanation = self.explainer.explain(frame, head, label, seed)
        explained = time.perf_counter()
        overlay = draw_overlay(frame, explanation, label, diagnosed.task, self.style)
        drawn = time.perf_counter()
        values = explanation.values
        record = MapRecord(
            method=self.explainer.method,
            mode=self.explainer.mode,
            seed=seed,
            parameters=explanation.parameters,
            task=diagnosed.task,
            target_label=label,
            target_probability=explanation.probability,
            backbone_id=self._backbone_id,
            head_id=head.id,
            diagnosis_event_id=diagnosed.event_id,
            study_instance_uid=study,
            series_instance_uid=evidence.series_instance_uid,
            sop_instance_uid=sop,
            frame_number=number,
            instance_key=source_key,
            instance_sha256=hashlib.sha256(data).hexdigest(),
            map_shape=(values.shape[0], values.shape[1]),
            letterbox=LetterboxRecord.model_validate(explanation.letterbox),
            mask_count=explanation.mask_count,
            value_min=float(values.min()),
            value_max=float(values.max()),
            overlay_scale=overlay.scale,
            read_s=read - started,
            explain_s=explained - read,
            overlay_s=drawn - explained,
            created_at=events.now(),
        )
        stem = f"{sop}-{number}"
        keys = {suffix: self._key(diagnosed, f"{stem}.{suffix}") for suffix in ("npy", "png", "json")}
        self.archive.put(keys["npy"], npy_bytes(values))
        self.archive.put(keys["png"], overlay.png)
        self.archive.put(keys["json"], record.model_dump_json(indent=2).encode())
        self._observe(diagnosed.task, explanation.mask_count, time.perf_counter() - started)
        return ExplanationMap(
            series_instance_uid=evidence.series_instance_uid,
            sop_instance_uid=sop,
            frame_number=number,
            target_label=label,
            map_key=keys["npy"],
            overlay_key=keys["png"],
            record_key=keys["json"],
            method=self.explainer.method,
            mode=self.explainer.mode,
            seed=seed,
            mask_count=explanation.mask_count,
            value_min=record.value_min,
            value_max=record.value_max,
        )

    def _read(self, data: bytes, number: int) -> Frame:
        frames = read_frames(data, frame_numbers=[number], limits=self.limits)
        if len(frames) != 1:
            raise UndecodablePixelsError(f"frame {number} is not in the object")
        return frames[0]

    def _earlier(self, summary_key: str) -> StudyExplained | None:
        """What an earlier delivery stored, if all of it is there."""
        if not self.archive.exists(summary_key):
            return None
        try:
            earlier = StudyExplained.model_validate_json(self.archive.get(summary_key))
        except ValidationError as error:
            log.warning("%s is not readable and is made anew: %s", summary_key, error)
            return None
        keys = (key for made in earlier.maps for key in (made.map_key, made.overlay_key, made.record_key))
        return earlier if all(map(self.archive.exists, keys)) else None

    def _observe(self, task: str, mask_count: int, seconds: float) -> None:
        metrics.MAPS.labels(task).inc()
        metrics.MAP_MASKS.labels(task).observe(mask_count)
        metrics.MAP_SECONDS.labels(task).observe(seconds)

    def _key(self, diagnosed: StudyDiagnosed, name: str) -> str:
        return explanation_key(diagnosed.study_instance_uid, diagnosed.revision, diagnosed.task, name)

    @property
    def _backbone_id(self) -> str:
        return self.explainer.backbone_id


def wanted_frames(diagnosed: StudyDiagnosed, policy: ExplainPolicy) -> Sequence[EvidenceFrame]:
    """The evidence frames that the task's policy wants explained, the strongest first."""
    wanted = policy.policy == "all" or (policy.policy == "findings" and diagnosed.decision is Decision.FINDING)
    return diagnosed.evidence[: policy.max_frames] if wanted else ()


def npy_bytes(values: NDArray[np.float32]) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
