"""From what the archive and the index say to what goes over the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import PurePosixPath

from services.query import schema, search_schema
from services.query.catalogue import StudyFile, StudyRecord
from services.query.find_similar import Start, Tally
from services.query.requests import SearchOptions
from shared.events import ExplanationMap, StudyDiagnosed, StudyExplained
from shared.manifest import InstanceEntry
from shared.vector_index.port import Hit

THUMBNAIL_PX = 256


def frame_url(study: str, sop: str, frame_number: int, *, size: int | None = None) -> str:
    """Path of a frame's picture, relative to the service."""
    path = f"/v1/studies/{study}/instances/{sop}/frames/{frame_number}.png"
    return path if size is None else f"{path}?size={size}"


def map_name(saliency: ExplanationMap) -> str:
    """The name of a map within its study and task: <SOP Instance UID>-<frame>."""
    return PurePosixPath(saliency.record_key).stem if saliency.record_key else ""


def iso_date(value: str | int | None) -> date | None:
    """A DICOM date (YYYYMMDD) that may be absent or wrong."""
    try:
        return datetime.strptime(str(value), "%Y%m%d").date() if value else None  # noqa: DTZ007
    except ValueError:
        return None


def verdict(diagnosis: StudyDiagnosed) -> schema.Verdict:
    """A diagnosis in short."""
    return schema.Verdict(
        task=diagnosis.task,
        decision=diagnosis.decision,
        label=diagnosis.label,
        confidence=diagnosis.confidence,
        reason=diagnosis.reason,
    )


def summary(record: StudyRecord) -> schema.StudySummary:
    """A study in the list."""
    return schema.StudySummary.model_validate(_summary_values(record))


def detail(file: StudyFile, orders: Mapping[str, Sequence[InstanceEntry]], *, frames_max: int) -> schema.StudyDetail:
    """A study in full. `orders` gives each series' instances in viewing order, by Series Instance UID.

    At most `frames_max` frames of a series are listed: a header may claim any number of them.
    """
    uid = file.record.study_instance_uid
    return schema.StudyDetail.model_validate(
        {
            **_summary_values(file.record),
            "series": [
                schema.SeriesDetail(
                    series_instance_uid=series.series_instance_uid,
                    modality=series.modality,
                    body_part=series.body_part,
                    instance_count=len(series.instances),
                    frames=tuple(
                        islice(_frames(uid, orders.get(series.series_instance_uid, series.instances)), frames_max)
                    ),
                )
                for series in file.manifest.series
            ],
            "diagnoses": [_diagnosis(found) for found in file.record.diagnoses],
            "maps": [
                saliency_map(explained, saliency) for explained in file.explanations for saliency in explained.maps
            ],
        }
    )


def neighbours(hits: Sequence[Hit], start: Start, *, first_rank: int = 1) -> tuple[search_schema.Neighbour, ...]:
    """Hits in order, each compared with the query's own label."""
    own = start.of_study.label if start.of_study else None
    return tuple(
        search_schema.Neighbour(
            rank=rank,
            score=round(max(-1.0, min(1.0, hit.score)), 6),
            study_instance_uid=hit.payload.study_instance_uid,
            series_instance_uid=hit.payload.series_instance_uid,
            sop_instance_uid=hit.payload.sop_instance_uid,
            frame_number=hit.payload.frame_number,
            modality=hit.payload.modality,
            body_part=hit.payload.body_part,
            sex=hit.payload.sex,
            age_band=hit.payload.age_band,
            study_date=iso_date(hit.payload.study_date),
            task=hit.payload.task,
            decision=hit.payload.decision,
            label=hit.payload.label,
            label_source=hit.payload.label_source,
            region=hit.payload.region,
            agrees=None if own is None or hit.payload.label is None else hit.payload.label == own,
            image_url=frame_url(
                hit.payload.study_instance_uid,
                hit.payload.sop_instance_uid,
                hit.payload.frame_number,
                size=THUMBNAIL_PX,
            ),
        )
        for rank, hit in enumerate(hits, start=first_rank)
    )


def vote(tally: Tally, calibration: search_schema.VoteCalibration | None = None) -> search_schema.Vote:
    """The neighbours' vote."""
    return search_schema.Vote(
        label=tally.label,
        votes=tally.votes,
        voters=tally.voters,
        without_label=tally.without_label,
        tie=tally.tie,
        counts=tuple(search_schema.LabelCount(label=label, studies=count) for label, count in tally.counts),
        calibration=calibration,
    )


def query_facts(
    start: Start, options: SearchOptions, *, own_patient_excluded: bool, preview: str | None = None
) -> search_schema.QueryFacts:
    """What was searched for."""
    own = start.of_study
    return search_schema.QueryFacts(
        kind=start.kind,
        frames_used=start.frames_used,
        study_instance_uid=own.study_instance_uid if own else None,
        task=own.task if own else None,
        decision=own.decision if own else None,
        label=own.label if own else None,
        own_patient_excluded=own_patient_excluded and own is not None,
        space=options.space,
        level=options.level,
        region=options.region,
        preview=preview,
    )


def _summary_values(record: StudyRecord) -> dict[str, object]:
    cover = record.cover
    return {
        "study_instance_uid": record.study_instance_uid,
        "revision": record.revision,
        "received_at": record.received_at,
        "study_date": iso_date(record.study_date),
        "modalities": record.modalities,
        "body_parts": record.body_parts,
        "sexes": record.sexes,
        "age_bands": record.age_bands,
        "series_count": record.series_count,
        "instance_count": record.instance_count,
        "frame_count": record.frame_count,
        "mixed_patients": record.mixed_patients,
        "state": "diagnosed" if record.diagnoses else "waiting",
        "verdicts": [verdict(found) for found in record.diagnoses],
        "map_count": record.map_count,
        "image_url": (
            frame_url(record.study_instance_uid, cover.sop_instance_uid, cover.frame_number, size=THUMBNAIL_PX)
            if cover
            else None
        ),
    }


def _frames(study: str, instances: Iterable[InstanceEntry]) -> Iterable[schema.FramePlace]:
    for instance in instances:
        for number in range(1, instance.number_of_frames + 1):
            yield schema.FramePlace(
                sop_instance_uid=instance.sop_instance_uid,
                frame_number=number,
                image_url=frame_url(study, instance.sop_instance_uid, number),
            )


def _diagnosis(diagnosis: StudyDiagnosed) -> schema.Diagnosis:
    return schema.Diagnosis(
        **verdict(diagnosis).model_dump(),
        revision=diagnosis.revision,
        diagnosed_at=diagnosis.occurred_at,
        classes=diagnosis.classes,
        evidence=tuple(
            schema.Evidence(
                series_instance_uid=frame.series_instance_uid,
                sop_instance_uid=frame.sop_instance_uid,
                frame_number=frame.frame_number,
                probability=frame.probability,
                image_url=frame_url(diagnosis.study_instance_uid, frame.sop_instance_uid, frame.frame_number),
            )
            for frame in diagnosis.evidence
        ),
        frames_embedded=diagnosis.frames_embedded,
        skipped_count=len(diagnosis.skipped),
        partial=diagnosis.partial,
        backbone_id=diagnosis.backbone_id,
        head_id=diagnosis.head_id,
    )


def saliency_map(explained: StudyExplained, saliency: ExplanationMap) -> schema.SaliencyMap:
    """One of the maps of `explained`."""
    base = f"/v1/studies/{explained.study_instance_uid}/explanations/{explained.task}/{map_name(saliency)}"
    return schema.SaliencyMap(
        task=explained.task,
        target_label=saliency.target_label,
        series_instance_uid=saliency.series_instance_uid,
        sop_instance_uid=saliency.sop_instance_uid,
        frame_number=saliency.frame_number,
        method=saliency.method,
        mode=saliency.mode,
        seed=saliency.seed,
        mask_count=saliency.mask_count,
        value_min=saliency.value_min,
        value_max=saliency.value_max,
        layer_url=f"{base}.png?layer=map",
        overlay_url=f"{base}.png",
        record_url=f"{base}.json",
        reliability=saliency.reliability,
        reliability_reason=saliency.reliability_reason,
        faithfulness=saliency.faithfulness,
        requested=explained.request_id is not None,
    )
