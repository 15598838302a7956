"""GET /v1/info and /v1/facets: what the service is, and what there is to filter by."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TypeVar

from fastapi import APIRouter

from services.query import schema
from services.query.parts import Parts, Ready
from services.query.requests import Filters
from shared.errors import IndexUnavailableError
from shared.vision.retrieval_report import VISUAL

log = logging.getLogger(__name__)
router = APIRouter(tags=["about"])
T = TypeVar("T")

VISUAL_SPACE: Final = schema.SpaceInfo(
    name=VISUAL,
    title="Looks alike",
    description="Compares the whole look of an image; the same anatomy often counts more than the same lesion.",
)


@router.get("/v1/info", summary="Backbone, tasks, limits and counts")
async def get_info(parts: Ready) -> schema.Info:
    """Answers also while the vector index is away; `frames_indexed` is null then."""
    records = await parts.readers.run(parts.catalogue.studies)
    return schema.Info(
        version=package_version(),
        backbone_id=parts.encoder.id,
        embedding_dim=parts.encoder.dim,
        tasks=parts.tasks,
        spaces=_spaces(parts),
        region_search=bool(await _asked(parts, parts.collections.has_regions)),
        takes_labels=parts.settings.writable,
        takes_map_requests=parts.settings.writable and parts.explanations.offered,
        studies=len(records),
        frames_indexed=await _asked(parts, parts.find_similar.index.count),
        search_limit_max=parts.settings.search_limit_max,
        upload_max_bytes=parts.settings.upload_max_bytes,
    )


@router.get("/v1/facets", summary="Values to filter by, with study counts")
async def get_facets(parts: Ready) -> schema.Facets:
    """Of all received studies."""
    return await parts.readers.run(lambda: parts.columns().find(Filters()).facets())


def _spaces(parts: Parts) -> tuple[schema.SpaceInfo, ...]:
    own = tuple(
        schema.SpaceInfo(
            name=space.name,
            title=f"Same finding: {space.title}",
            description="Compares what tells this task's classes apart; of use for studies that the task judges.",
        )
        for space in parts.collections.spaces.values()
    )
    return (VISUAL_SPACE, *own)


def package_version() -> str:
    """The installed version of Similis."""
    try:
        return version("similis")
    except PackageNotFoundError:
        return "0"


async def _asked(parts: Parts, of_index: Callable[[], T]) -> T | None:
    """What the index says; None while it does not answer."""
    try:
        return await parts.readers.run(of_index)
    except IndexUnavailableError as error:
        log.warning("the index does not answer: %s", error)
        return None
