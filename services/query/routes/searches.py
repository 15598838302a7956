"""POST /v1/search: similar cases by what is indexed, by a vector, or by an uploaded file."""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, File, Query, UploadFile
from pydantic import PositiveInt

from services.query import metrics, search_steps, uploads
from services.query.audit import trail
from services.query.find_similar import NotIndexedError, Start
from services.query.parameters import (
    AgeBands,
    BodyParts,
    Decisions,
    FirstDate,
    Labels,
    LastDate,
    Modalities,
    Sexes,
    Tasks,
)
from services.query.parts import Parts, Ready
from services.query.problems import Problem, ProblemDetails, of_pipeline_error
from services.query.requests import BatchRequest, Filters, RegionOfInterest, SearchOptions, SearchRequest, Value
from services.query.search_schema import BatchAnswer, BatchResponse, SearchResponse
from services.query.uploads import BINARY
from shared.errors import NotAnImageError, SimilisError, UndecodablePixelsError
from shared.pixels.frame import Frame

router = APIRouter(tags=["search"])


@router.post("/v1/search", summary="Similar cases to something indexed, or to a vector")
async def search(request: SearchRequest, parts: Ready) -> SearchResponse:
    """Cosine neighbours of a study, series, instance, frame or vector.

    The query's own study is never among them; nor, by default, another study of its patient.
    """
    async with search_steps.in_time(parts):
        return await _search(request, parts)


@router.post("/v1/search/batch", summary="Several searches at once")
async def search_batch(request: BatchRequest, parts: Ready) -> BatchResponse:
    """Each search has its own answer, or its own problem; they are done one after the other."""
    most = parts.settings.batch_searches_max
    if len(request.searches) > most:
        raise Problem(422, "too-many-searches", f"A batch holds at most {most} searches.")
    answers: list[BatchAnswer] = []
    ends_at = anyio.current_time() + parts.settings.search_timeout_s
    for one in request.searches:
        try:
            with anyio.fail_at(ends_at):
                answers.append(BatchAnswer(answer=await _search(one, parts), problem=None))
        except TimeoutError:
            answers.append(_failed(Problem(504, "timeout", "The batch took too long and was given up here.")))
        except Problem as problem:
            answers.append(_failed(problem))
        except SimilisError as error:
            answers.append(_failed(of_pipeline_error(error, parts.settings.retry_after_s)))
    return BatchResponse(answers=tuple(answers))


@router.post(
    "/v1/search/upload",
    summary="Similar cases to an uploaded file",
    openapi_extra={"x-notice": "The file is decoded in memory and forgotten; research use only."},
)
async def search_by_upload(
    parts: Ready,
    file: Annotated[UploadFile, File(description="DICOM (Part 10), PNG or JPEG.", json_schema_extra=BINARY)],
    *,
    frame_number: Annotated[PositiveInt | None, Query(description="Of a multi-frame object; counts from 1.")] = None,
    task: Tasks = [],  # noqa: B006 - FastAPI copies it
    label: Labels = [],  # noqa: B006
    decision: Decisions = [],  # noqa: B006
    modality: Modalities = [],  # noqa: B006
    body_part: BodyParts = [],  # noqa: B006
    sex: Sexes = [],  # noqa: B006
    age_band: AgeBands = [],  # noqa: B006
    study_date_from: FirstDate = None,
    study_date_to: LastDate = None,
    group_by: Annotated[Literal["study", "frame"], Query(description="study: the best frame of each study.")] = "study",
    limit: Annotated[PositiveInt, Query(description="Most neighbours; the service caps it.")] = 10,
    space: Annotated[Value, Query(description="visual, or a task's name.")] = "visual",
    level: Annotated[Literal["frame", "series", "study"], Query(description="What is compared.")] = "frame",
    region: Annotated[
        str | None, Query(max_length=128, description="left,top,width,height in shares of the (middle) frame.")
    ] = None,
    cursor: Annotated[str | None, Query(max_length=60_000, description="`next_cursor` of the page before.")] = None,
) -> SearchResponse:
    """Cosine neighbours of an image that is not archived. Nothing of the upload is kept.

    Of a multi-frame object a few frames, chosen evenly, are averaged; `frame_number` picks one. An upload
    is nobody's in particular, so no patient is left out.
    """
    started = time.perf_counter()
    if region is not None and (space != "visual" or level != "frame"):
        raise Problem(422, "invalid-region", "A region is searched in the visual space, by frames.")
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
        space=space,
        level=level,
        region=_region(region),
        cursor=cursor,
    )
    async with search_steps.in_time(parts):
        data = await file.read()
        frames = await read_frames_of(parts, data, frame_number)
        await parts.readers.run(lambda: search_steps.step_for(parts, options))
        start = await parts.encoders.run(lambda: _embed(parts, frames, options))
        preview = await parts.decoders.run(lambda: uploads.preview(frames))
        asked = hashlib.sha256(data + str(frame_number).encode()).digest()
        return await search_steps.answer(parts, start, options, started, asked=asked, preview=preview)


async def _search(request: SearchRequest, parts: Parts) -> SearchResponse:
    started = time.perf_counter()
    if request.study_instance_uid is not None:
        trail.asked_for(request.study_instance_uid)
    try:
        start = await _start(request, parts)
    except NotIndexedError as error:
        raise not_indexed() from error
    return await search_steps.answer(parts, start, request, started)


async def _start(request: SearchRequest, parts: Parts) -> Start:
    region, sop, number = request.region, request.sop_instance_uid, request.frame_number
    if region is None or sop is None or number is None:
        return await parts.readers.run(lambda: search_steps.starting_point(request, parts))
    await parts.readers.run(lambda: search_steps.step_for(parts, request))
    frame, known = await parts.decoders.run(lambda: search_steps.indexed_frame(parts, sop, number))
    return await parts.encoders.run(lambda: parts.find_similar.from_region(frame, region, parts.encoder, [known]))


def not_indexed() -> Problem:
    """The answer where the index holds nothing of what was asked for."""
    return Problem(
        404, "not-indexed", "Nothing with this UID is in the index: unknown, without an image, or not judged yet."
    )


def _failed(problem: Problem) -> BatchAnswer:
    details = ProblemDetails(
        type=f"urn:similis:problem:{problem.kind}",
        title=problem.kind.replace("-", " ").capitalize(),
        status=problem.status_code,
        detail=str(problem.detail),
        instance="/v1/search",
    )
    return BatchAnswer(answer=None, problem=details)


def _region(text: str | None) -> RegionOfInterest | None:
    try:
        return RegionOfInterest.of_text(text) if text is not None else None
    except ValueError as error:
        raise Problem(422, "invalid-region", "A region is left,top,width,height, on the frame, 0 to 1.") from error


def _embed(parts: Parts, frames: list[Frame], options: SearchOptions) -> Start:
    space = parts.collections.spaces.get(options.space)
    with metrics.ENCODE_SECONDS.time():
        if options.region is not None:
            return parts.find_similar.from_region(frames[len(frames) // 2], options.region, parts.encoder)
        return parts.find_similar.from_frames(frames, parts.encoder, space.head if space else None)


async def read_frames_of(parts: Parts, data: bytes, frame_number: int | None) -> list[Frame]:
    """The frames of an upload.

    Raises:
        NotAnImageError, UndecodablePixelsError: see `uploads.read_upload`.
    """
    try:
        frames = await parts.decoders.run(
            lambda: uploads.read_upload(
                data,
                parts.frame_reader,
                frame_number=frame_number,
                max_frames=parts.settings.upload_max_frames,
                limits=parts.upload_limits,
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
