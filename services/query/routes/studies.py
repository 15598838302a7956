"""GET /v1/studies: the list, and one study in full."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import PositiveInt

from services.query import cursors, schema, views
from services.query.audit import trail
from services.query.catalogue import StudyRecord
from services.query.parameters import (
    AgeBands,
    BodyParts,
    Decisions,
    FirstDate,
    Labels,
    LastDate,
    Modalities,
    Sexes,
    StudyUid,
    Tasks,
)
from services.query.parts import Ready
from services.query.requests import Filters
from services.query.stack_order import viewing_order
from shared.manifest import InstanceEntry

router = APIRouter(tags=["studies"])


@router.get("/v1/studies", summary="Studies, newest first")
async def list_studies(
    parts: Ready,
    *,
    q: Annotated[str, Query(max_length=64, description="Part of a UID, label, modality or body part.")] = "",
    task: Tasks = [],  # noqa: B006 - FastAPI copies it
    label: Labels = [],  # noqa: B006
    decision: Decisions = [],  # noqa: B006
    modality: Modalities = [],  # noqa: B006
    body_part: BodyParts = [],  # noqa: B006
    sex: Sexes = [],  # noqa: B006
    age_band: AgeBands = [],  # noqa: B006
    study_date_from: FirstDate = None,
    study_date_to: LastDate = None,
    limit: Annotated[PositiveInt, Query(description="Most studies; the service caps it.")] = 50,
    cursor: Annotated[str | None, Query(max_length=256, description="`next_cursor` of the page before.")] = None,
    facets: Annotated[bool, Query(description="Count each filter's values under all other filters.")] = False,
) -> schema.StudyList:
    """Every received study, also one that waits to be judged, or that no task takes."""
    after = _decode_cursor(cursor) if cursor else None
    filters = Filters(
        task=task,
        label=label,
        decision=decision,
        modality=modality,
        body_part=body_part,
        sex=sex,
        age_band=age_band,
        study_date_from=study_date_from,
        study_date_to=study_date_to,
    )

    def look() -> tuple[int, list[StudyRecord], bool, schema.Facets | None]:
        found = parts.columns().find(filters, q.strip().lower())
        page, more = found.page(after, min(limit, parts.settings.page_size_max))
        return found.total, page, more, found.facets() if facets else None

    total, page, more, counts = await parts.readers.run(look)
    trail.given(record.study_instance_uid for record in page)
    return schema.StudyList(
        studies=tuple(views.summary(record) for record in page),
        total=total,
        next_cursor=_encode_cursor(page[-1]) if page and more else None,
        facets=counts,
    )


@router.get("/v1/studies/{study_instance_uid}", summary="One study with its diagnoses and maps")
async def get_study(study_instance_uid: StudyUid, parts: Ready) -> schema.StudyDetail:
    """Read from the archive at this moment."""
    file = await parts.study(study_instance_uid)

    def orders() -> dict[str, Sequence[InstanceEntry]]:
        return {
            series.series_instance_uid: viewing_order(
                parts.archive, series.instances, most=parts.settings.stack_order_max, limits=parts.limits
            )
            for series in file.manifest.series
        }

    return views.detail(file, await parts.decoders.run(orders), frames_max=parts.settings.frames_listed_max)


def _encode_cursor(record: StudyRecord) -> str:
    return cursors.encode(f"{record.received_at.isoformat()}|{record.study_instance_uid}".encode("ascii"))


def _decode_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        moment, uid = cursors.decode(cursor).decode("ascii").split("|")
        received_at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise cursors.invalid_cursor() from error
    if received_at.tzinfo is None:
        raise cursors.invalid_cursor()
    return received_at, uid
