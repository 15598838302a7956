"""Pictures: frames, saliency maps, and the records that reproduce the maps."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Path, Query, Response

from services.query import views
from services.query.parameters import SopUid, StudyUid, Task
from services.query.parts import Parts, Ready
from services.query.principal import Principal
from services.query.problems import Problem
from shared.events import ExplanationMap, StudyExplained
from shared.manifest import InstanceEntry

Responses = dict[int | str, dict[str, Any]]

router = APIRouter(tags=["images"])

# An object never changes under its UID, but how it is drawn may, from one version to the next.
CACHE_CONTROL: Final = "private, max-age=3600"
# Where people sign in, the next one at this browser must be asked who they are, and is recorded.
CACHE_CONTROL_OF_USERS: Final = "private, no-cache"
PNG_ANSWER: Final[Responses] = {200: {"content": {"image/png": {}}, "description": "The picture."}}
JSON_ANSWER: Final[Responses] = {200: {"content": {"application/json": {}}, "description": "The record, as archived."}}

FrameNumber = Annotated[int, Path(ge=1, le=1_000_000, description="Counts from 1.")]
MapName = Annotated[
    str, Path(pattern=r"^[0-9.]{1,64}-[0-9]{1,7}(-[0-9a-f-]{36})?$", description="<SOP Instance UID>-<frame>")
]
IfNoneMatch = Annotated[str | None, Header(include_in_schema=False)]


@router.get(
    "/v1/studies/{study_instance_uid}/instances/{sop_instance_uid}/frames/{frame_number}.png",
    summary="A frame in its own window",
    response_class=Response,
    responses=PNG_ANSWER,
)
async def get_frame(
    study_instance_uid: StudyUid,
    sop_instance_uid: SopUid,
    frame_number: FrameNumber,
    parts: Ready,
    who: Principal,
    size: Annotated[int | None, Query(ge=16, le=8192, description="Longest side, in pixels; never enlarged.")] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """8-bit, with square pixels: for looking at, not for measuring."""
    instance = await _instance(parts, study_instance_uid, sop_instance_uid)
    if frame_number > max(instance.number_of_frames, 1):
        raise Problem(404, "unknown-frame", f"This object has {instance.number_of_frames} frames.")
    etag = _etag(instance.sha256, str(frame_number), str(size))
    if etag == if_none_match:
        return Response(status_code=304, headers=_headers(etag, who))
    picture = await parts.decoders.run(lambda: parts.pictures.frame(instance, frame_number, size))
    return Response(picture, media_type="image/png", headers=_headers(etag, who))


@router.get(
    "/v1/studies/{study_instance_uid}/explanations/{task}/{name}.png",
    summary="A saliency map as a picture",
    response_class=Response,
    responses=PNG_ANSWER,
)
async def get_map(
    study_instance_uid: StudyUid,
    task: Task,
    name: MapName,
    parts: Ready,
    who: Principal,
    layer: Annotated[
        Literal["overlay", "map"],
        Query(description="overlay: frame, map and scale, as archived. map: the map alone, transparent."),
    ] = "overlay",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Research use only: a map shows what moved the model, not where disease is."""
    explained, saliency = await _map(parts, study_instance_uid, task, name)
    etag = _etag(str(explained.event_id), saliency.map_key, layer)
    if etag == if_none_match:
        return Response(status_code=304, headers=_headers(etag, who))
    if layer == "overlay":
        picture = await parts.readers.run(lambda: parts.archive.get(saliency.overlay_key))
    else:
        event_id = str(explained.event_id)
        picture = await parts.decoders.run(lambda: parts.pictures.map_layer(saliency, event_id))
    return Response(picture, media_type="image/png", headers=_headers(etag, who))


@router.get(
    "/v1/studies/{study_instance_uid}/explanations/{task}/{name}.json",
    summary="What reproduces a saliency map",
    response_class=Response,
    responses=JSON_ANSWER,
)
async def get_record(study_instance_uid: StudyUid, task: Task, name: MapName, parts: Ready) -> Response:
    """Method, mode, seed, masks, value range, model and head."""
    _, saliency = await _map(parts, study_instance_uid, task, name)
    record = await parts.readers.run(lambda: parts.archive.get(saliency.record_key))
    return Response(record, media_type="application/json")


async def _instance(parts: Parts, study: str, sop: str) -> InstanceEntry:
    found = (await parts.study(study)).instance(sop)
    if found is None:
        raise Problem(404, "unknown-instance", "The study has no object with this UID.")
    return found[1]


async def _map(parts: Parts, study: str, task: str, name: str) -> tuple[StudyExplained, ExplanationMap]:
    """A map that the study's own event names: a path is never built from what the client sent."""
    for explained in (await parts.study(study)).explanations:
        for saliency in explained.maps:
            if explained.task == task and views.map_name(saliency) == name:
                return explained, saliency
    raise Problem(404, "unknown-map", "The study has no such map.")


def _etag(*parts: str) -> str:
    return '"' + hashlib.sha256("|".join(parts).encode()).hexdigest()[:32] + '"'


def _headers(etag: str, who: str | None) -> dict[str, str]:
    return {"ETag": etag, "Cache-Control": CACHE_CONTROL if who is None else CACHE_CONTROL_OF_USERS}
