"""From what was found in a study to the event that says so."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.embedder.encode import EncodedStudy
from services.embedder.judge import Verdict
from services.embedder.select_frames import FrameKey
from services.embedder.survey import Survey
from shared.events import (
    NO_TASK,
    EvidenceFrame,
    ModelCardReference,
    PixelNote,
    SkippedInstance,
    StageSeconds,
    StudyDiagnosed,
    StudyReceived,
)
from shared.ids import point_id
from shared.vision.tasks import Task


@dataclass(frozen=True, slots=True)
class Embedded:
    """A study once its frames are encoded.

    Attributes:
        judged: By the task's name: the frames that are its to judge.
        survey_s: What reading and verifying every object took.
    """

    survey: Survey
    encoded: EncodedStudy
    judged: Mapping[str, frozenset[FrameKey]]
    survey_s: float

    @property
    def skipped(self) -> tuple[SkippedInstance, ...]:
        """Objects left out, and why."""
        return (*self.survey.skipped, *self.encoded.undecoded)


def rules_of(task: Task) -> str:
    """SHA-256 of what the task judges by besides its head: its definition, and the card that describes it.

    Part of a diagnosis' identity, since a version may be promoted that differs only in these.
    """
    rules = {"definition": task.definition.model_dump(mode="json"), "card": task.card_sha256}
    return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def compose(
    received: StudyReceived,
    task: Task | None,
    verdict: Verdict,
    embedded: Embedded,
    *,
    event_id: UUID,
    occurred_at: datetime,
    backbone_id: str,
    max_listed: int,
) -> StudyDiagnosed:
    """The diagnosis of one task (or of none), without its timing.

    Args:
        received: The study.
        task: The task; None if none takes the study.
        verdict: What it says.
        embedded: What it says it of.
        event_id: The event's deterministic id.
        occurred_at: Now.
        backbone_id: Of the backbone that made the features.
        max_listed: Skipped objects, and failed frames, that are listed; of the others the reason gives the number.
    """
    encoded, skipped = embedded.encoded, embedded.skipped
    return StudyDiagnosed(
        event_id=event_id,
        occurred_at=occurred_at,
        study_instance_uid=received.study_instance_uid,
        revision=received.revision,
        task=NO_TASK if task is None else task.name,
        decision=verdict.decision,
        reason=_with_gaps(verdict.reason, embedded, max_listed),
        label=verdict.label,
        confidence=verdict.confidence,
        classes=verdict.classes,
        evidence=tuple(_evidence(encoded, backbone_id, *found) for found in verdict.evidence),
        frames_embedded=len(encoded.frames),
        skipped=skipped[:max_listed],
        partial=bool(encoded.failed) or any(skip.reason != "not-an-image" for skip in skipped),
        mixed_patients=received.mixed_patients,
        modalities=received.modalities,
        manifest_key=received.manifest_key,
        backbone_id=backbone_id,
        head_id=None if task is None else task.head.id,
        duration_s=0.0,
        series=verdict.series,
        out_of_distribution=verdict.unfamiliarity,
        model_card=None if task is None else _card(task),
        frames_failed=encoded.failed[:max_listed],
        pixel_notes=tuple(PixelNote(note=note, frames=frames) for note, frames in sorted(encoded.notes.items())),
    )


def timed(
    event: StudyDiagnosed, embedded: Embedded, *, judge_s: float, index_s: float | None, started: float
) -> StudyDiagnosed:
    """The event with its timing; `started` is a `time.perf_counter()`."""
    encoded = embedded.encoded
    timing = StageSeconds(
        survey_s=embedded.survey_s,
        decode_s=encoded.decode_s,
        encode_s=encoded.encode_s,
        embed_s=encoded.embed_s,
        judge_s=judge_s,
        index_s=index_s,
    )
    return event.model_copy(update={"timing": timing, "duration_s": time.perf_counter() - started})


def _evidence(encoded: EncodedStudy, backbone_id: str, index: int, probability: float) -> EvidenceFrame:
    frame = encoded.frames[index]
    sop_instance_uid = frame.image.instance.sop_instance_uid
    return EvidenceFrame(
        series_instance_uid=frame.image.series.series_instance_uid,
        sop_instance_uid=sop_instance_uid,
        frame_number=frame.number,
        probability=probability,
        point_id=point_id(backbone_id, sop_instance_uid, frame.number),
    )


def _card(task: Task) -> ModelCardReference:
    return ModelCardReference(task=task.name, head_sha256=task.head_sha256, card_sha256=task.card_sha256)


def _with_gaps(reason: str, embedded: Embedded, listed: int) -> str:
    """The reason, and how much of the study is missing."""
    parts = [reason]
    if (unlisted := len(embedded.skipped) - listed) > 0:
        parts.append(f"{unlisted} more objects were skipped")
    if failed := len(embedded.encoded.failed):
        parts.append(f"{failed} frames could not be decoded")
    return "; ".join(parts)
