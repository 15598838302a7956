"""POST /v1/search: similar cases by what is indexed, by a vector, or by an uploaded file."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, File, Query, UploadFile
from pydantic import PositiveInt

from services.query import metrics, uploads, views
from services.query.find_similar import NotIndexedError, Start, Wish, tally
from services.query.parts import Parts, Ready
from services.query.problems import Problem
from services.query.requests import Filters, SearchOptions, SearchRequest, Value
from services.query.schema import SearchResponse
from shared.errors import NotAnImageError, UndecodablePixelsError
from shared.events import Decision
from shared.pixels.frame import Frame

router = APIRouter(tags=["search"])

Values = Annotated[list[Value], Query(max_length=32)]


@router.post("/v1/search", summary="Similar cases to something indexed, or to a vector")
async def search(request: SearchRequest, parts: Ready) -> SearchResponse:
    """Cosine neighbours of a study, series, instance, frame or vector.

    The query's own study is never among them; nor, by default, another study of its patient.
    """
    started = time.perf_counter()
    try:
        start = await parts.readers.run(_starting_point(request, parts))
    except NotIndexedError as error:
        raise Problem(
            404, "not-indexed", "Nothing with this UID is in the index: unknown, without an image, or not judged yet."
        ) from error
    return await _answer(parts, start, request, started)


@router.post(
    "/v1/search/upload",
    summary="Similar cases to an uploaded file",
    openapi_extra={"x-notice": "The file is decoded in memory and forgotten; research use only."},
)
async def search_by_upload(
    parts: Ready,
    file: Annotated[UploadFile, File(description="DICOM (Part 10), PNG or JPEG.")],
    *,
    frame_number: Annotated[PositiveInt | None, Query(description="Of a multi-frame object; counts from 1.")] = None,
    task: Values = [],  # noqa: B006 - FastAPI copies it
    label: Values = [],  # noqa: B006
    decision: Annotated[list[Decision], Query(max_length=8)] = [],  # noqa: B006
    modality: Values = [],  # noqa: B006
    body_part: Values = [],  # noqa: B006
    sex: Values = [],  # noqa: B006
    age_band: Values = [],  # noqa: B006
    study_date_from: date | None = None,
    study_date_to: date | None = None,
    group_by: Literal["study", "frame"] = "study",
    limit: PositiveInt = 10,
) -> SearchResponse:
    """Cosine neighbours of an image that is not archived. Nothing of the upload is kept.

    Of a multi-frame object a few frames, chosen evenly, are averaged; `frame_number` picks one. An upload
    is nobody's in particular, so no patient is left out.
    """
    started = time.perf_counter()
    options = SearchOptions(
        filters=Filters(
            task=task,
            label=label,
            decision=decision,
            modality=modality,
            body_part=body_part,
            sex=sex,
            age_band=age_band,
            study_date_from=study_date_from,
            study_date_to=study_date_to,
        ),
        group_by=group_by,
        limit=limit,
    )
    frames = await _frames(parts, await file.read(), frame_number)
    start = await parts.encoders.run(lambda: _embed(parts, frames))
    preview = await parts.decoders.run(lambda: uploads.preview(frames))
    return await _answer(parts, start, options, started, preview=preview)


def _starting_point(request: SearchRequest, parts: Parts) -> Callable[[], Start]:
    """The work that finds the query vector."""
    step = parts.find_similar
    if request.vector is not None:
        vector = request.vector
        return lambda: step.from_vector(vector)
    if request.sop_instance_uid is not None:
        sop, number = request.sop_instance_uid, request.frame_number
        return lambda: step.from_instance(sop, number)
    if request.series_instance_uid is not None:
        series = request.series_instance_uid
        return lambda: step.from_series(series)
    study = request.study_instance_uid or ""

    def by_study() -> Start:
        file = parts.catalogue.study(study)
        return step.from_study(study, file.record.diagnoses if file else ())

    return by_study


async def _frames(parts: Parts, data: bytes, frame_number: int | None) -> list[Frame]:
    try:
        frames = await parts.decoders.run(
            lambda: uploads.read_upload(
                data, frame_number=frame_number, max_frames=parts.settings.upload_max_frames, limits=parts.upload_limits
            )
        )
    except NotAnImageError:
        metrics.UPLOADS.labels("not-an-image").inc()
        raise
    except UndecodablePixelsError:
        metrics.UPLOADS.labels("undecodable").inc()
        raise
    metrics.UPLOADS.labels("decoded").inc()
    return frames


def _embed(parts: Parts, frames: list[Frame]) -> Start:
    with metrics.ENCODE_SECONDS.time():
        return parts.find_similar.from_frames(frames, parts.encoder)


async def _answer(
    parts: Parts, start: Start, options: SearchOptions, started: float, *, preview: str | None = None
) -> SearchResponse:
    exclude = options.exclude_own_patient
    wish = Wish(
        limit=min(options.limit, parts.settings.search_limit_max),
        filters=options.filters,
        by_frame=options.group_by == "frame",
        exclude_own_patient=parts.settings.exclude_own_patient if exclude is None else exclude,
    )
    hits = await parts.readers.run(lambda: parts.find_similar.neighbours(start, wish))
    metrics.SEARCHES.labels(start.kind).inc()
    return SearchResponse(
        query=views.query_facts(start, own_patient_excluded=wish.exclude_own_patient, preview=preview),
        results=views.neighbours(hits, start),
        vote=views.vote(tally(hits)),
        backbone_id=parts.find_similar.backbone_id,
        took_ms=round((time.perf_counter() - started) * 1000, 1),
    )
