"""POST /v1/matches: which regions of two frames correspond."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Query, UploadFile
from pydantic import PositiveInt

from services.query import search_steps
from services.query.find_similar import NotIndexedError
from services.query.match_patches import METHOD, Patches, match_patches
from services.query.parameters import IndexedSopUid
from services.query.parts import Parts, Ready
from services.query.problems import Problem
from services.query.requests import FrameReference, MatchRequest
from services.query.routes.searches import not_indexed, read_frames_of
from services.query.search_schema import MatchResponse, RegionMatch
from services.query.uploads import BINARY
from shared.pixels.frame import Frame
from shared.vision.patch_grid import PatchGrid
from shared.vision.transform import letterboxed

router = APIRouter(tags=["search"])


@router.post("/v1/matches", summary="Which regions of two indexed frames correspond")
async def match_frames(request: MatchRequest, parts: Ready) -> MatchResponse:
    """Mutual nearest patch tokens: what the encoder finds alike. Research use only."""
    async with search_steps.in_time(parts):
        query = await _frame(parts, request.query)
        neighbour = await _frame(parts, request.neighbour)
        return await parts.encoders.run(lambda: _match(parts, query, neighbour))


@router.post(
    "/v1/matches/upload",
    summary="Which regions of an uploaded and an indexed frame correspond",
    openapi_extra={"x-notice": "The file is decoded in memory and forgotten; research use only."},
)
async def match_upload(
    parts: Ready,
    file: Annotated[UploadFile, File(description="DICOM (Part 10), PNG or JPEG.", json_schema_extra=BINARY)],
    sop_instance_uid: IndexedSopUid,
    frame_number: Annotated[PositiveInt, Query(description="Of the indexed object; counts from 1.")] = 1,
    upload_frame_number: Annotated[PositiveInt | None, Query(description="Of the upload; unset: the middle.")] = None,
) -> MatchResponse:
    """As `/v1/matches`, with the upload as the query. Nothing of it is kept."""
    async with search_steps.in_time(parts):
        reference = FrameReference(sop_instance_uid=sop_instance_uid, frame_number=frame_number)
        neighbour = await _frame(parts, reference)
        frames = await read_frames_of(parts, await file.read(), upload_frame_number)
        return await parts.encoders.run(lambda: _match(parts, frames[len(frames) // 2], neighbour))


async def _frame(parts: Parts, wanted: FrameReference) -> Frame:
    try:
        found = await parts.decoders.run(
            lambda: search_steps.indexed_frame(parts, wanted.sop_instance_uid, wanted.frame_number)
        )
    except NotIndexedError as error:
        raise not_indexed() from error
    return found[0]


def _match(parts: Parts, query: Frame, neighbour: Frame) -> MatchResponse:
    tokens = parts.encoder.encode([query, neighbour]).patches
    if tokens is None:
        raise Problem(404, "no-patches", "The encoder keeps no patch tokens: frames cannot be compared by regions.")
    size_px, sides = parts.encoder.input_size_px, []
    for frame, of_frame in zip((query, neighbour), tokens, strict=True):
        grid = PatchGrid.of(frame, patches=len(of_frame), size_px=size_px)
        sides.append(Patches(of_frame, grid, grid.foreground(letterboxed(frame, size_px))))
    found = match_patches(sides[0], sides[1], most=parts.settings.matches_max)
    return MatchResponse(
        matches=tuple(
            RegionMatch(query=one.query, neighbour=one.neighbour, score=round(one.score, 6)) for one in found
        ),
        method=METHOD,
    )
