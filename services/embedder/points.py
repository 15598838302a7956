"""A study's points in the vector index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from services.embedder.encode import EncodedStudy
from shared.events import Decision, StudyDiagnosed
from shared.ids import point_id
from shared.manifest import StudyManifest
from shared.vector_index.port import AnyOf, Filter, FramePayload, FramePoint, VectorIndex

_PAGE: Final = 1000


def points_of(manifest: StudyManifest, encoded: EncodedStudy, event: StudyDiagnosed) -> list[FramePoint]:
    """One point a frame, with the study's diagnosis in its payload."""
    date = manifest.study_date or ""
    points = []
    for frame, vector in zip(encoded.frames, encoded.features.embeddings(), strict=True):
        series, instance = frame.image.series, frame.image.instance
        payload = FramePayload(
            study_instance_uid=manifest.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            frame_number=frame.number,
            revision=manifest.revision,
            modality=series.modality,
            body_part=series.body_part,
            patient_pseudonym=instance.patient_pseudonym,
            sex=instance.sex,
            age_band=instance.age_band,
            study_date=int(date) if len(date) == 8 and date.isascii() and date.isdigit() else None,
            backbone_id=event.backbone_id,
            task=event.task,
            decision=event.decision.value,
            label=event.label,
        )
        points.append(FramePoint(point_id(event.backbone_id, instance.sop_instance_uid, frame.number), vector, payload))
    return points


def foremost(events: Sequence[StudyDiagnosed]) -> StudyDiagnosed:
    """The diagnosis that the points carry: the surest finding, else the first by the task's name."""
    findings = [event for event in events if event.decision is Decision.FINDING]
    return max(findings, key=lambda event: event.confidence or 0.0) if findings else events[0]


def replace_points(
    index: VectorIndex,
    study_instance_uid: str,
    points: Sequence[FramePoint],
    *,
    at_once: int,
    on_progress: Callable[[], None],
) -> None:
    """Make `points` the study's only ones. Safe to repeat.

    A study whose earlier revision used other frames is absent from the index for a moment.

    Raises:
        InvalidVectorError: a vector cannot be stored.
        IndexUnavailableError: try again later.
    """
    study = of_study(study_instance_uid)
    if _ids(index, study) - {point.id for point in points}:
        index.delete(study)
    for start in range(0, len(points), at_once):
        on_progress()
        index.upsert(points[start : start + at_once])


def holds_revision(
    index: VectorIndex, study_instance_uid: str, revision: int, count: int, said: StudyDiagnosed | None = None
) -> bool:
    """Whether the study's points are at least `count`, all of `revision`; if `said` is given, with that diagnosis."""
    found, after = 0, None
    if index.count(of_study(study_instance_uid)) == 0:
        return count == 0
    while page := index.scroll(limit=_PAGE, where=of_study(study_instance_uid), after=after):
        if any(point.payload.revision != revision for point in page):
            return False
        if said is not None and any(_said(point.payload) != _said(said) for point in page):
            return False
        found, after = found + len(page), page[-1].id
    return found >= count


def _said(found: FramePayload | StudyDiagnosed) -> tuple[str, str, str | None]:
    return found.task, str(found.decision), found.label


def of_study(study_instance_uid: str) -> Filter:
    """The study's points."""
    return Filter(must=(AnyOf("study_instance_uid", (study_instance_uid,)),))


def _ids(index: VectorIndex, study: Filter) -> set[UUID]:
    ids: set[UUID] = set()
    if index.count(study) == 0:
        return ids
    after: UUID | None = None
    while page := index.scroll(limit=_PAGE, where=study, after=after):
        ids |= {point.id for point in page}
        after = page[-1].id
    return ids
