"""GET /v1/studies: the list, and one study in full."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import PositiveInt

from services.query import cursors, schema, views
from services.query.catalogue import StudyRecord
from services.query.parts import Ready
from services.query.requests import Filters, Value
from services.query.stack_order import viewing_order
from services.query.study_facets import VALUES, count_facets
from shared.events import Decision
from shared.ids import Uid
from shared.manifest import InstanceEntry

router = APIRouter(tags=["studies"])

Values = Annotated[list[Value], Query(max_length=32)]


@router.get("/v1/studies", summary="Studies, newest first")
async def list_studies(
    parts: Ready,
    *,
    q: Annotated[str, Query(max_length=64, description="Part of a UID, label, modality or body part.")] = "",
    task: Values = [],  # noqa: B006 - FastAPI copies it
    label: Values = [],  # noqa: B006
    decision: Annotated[list[Decision], Query(max_length=8)] = [],  # noqa: B006
    modality: Values = [],  # noqa: B006
    body_part: Values = [],  # noqa: B006
    sex: Values = [],  # noqa: B006
    age_band: Values = [],  # noqa: B006
    study_date_from: date | None = None,
    study_date_to: date | None = None,
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
    records = await parts.readers.run(parts.catalogue.studies)
    text = q.strip().lower()
    matching = [record for record in records if meets(record, filters, text)]
    left = [record for record in matching if after is None or record.order < after]
    page = left[: min(limit, parts.settings.page_size_max)]
    return schema.StudyList(
        studies=tuple(views.summary(record) for record in page),
        total=len(matching),
        next_cursor=_encode_cursor(page[-1]) if page and len(left) > len(page) else None,
        facets=await parts.readers.run(lambda: _facets(records, filters, text, len(matching))) if facets else None,
    )


@router.get("/v1/studies/{study_instance_uid}", summary="One study with its diagnoses and maps")
async def get_study(study_instance_uid: Uid, parts: Ready) -> schema.StudyDetail:
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


def _facets(records: Sequence[StudyRecord], filters: Filters, text: str, matching: int) -> schema.Facets:
    """Counts under the filters, each field's own left out; the text and the dates count for all."""
    others = Filters(study_date_from=filters.study_date_from, study_date_to=filters.study_date_to)
    wanted = {name: tuple(getattr(filters, name)) for name in VALUES}
    return count_facets((record for record in records if meets(record, others, text)), wanted, matching)


def meets(record: StudyRecord, filters: Filters, text: str) -> bool:
    """Whether a study passes the filters; between fields all, within a field any."""
    wanted: tuple[tuple[Sequence[str], Callable[[], Iterable[str | None]]], ...] = (
        (filters.task, lambda: (found.task for found in record.diagnoses)),
        (filters.label, lambda: (found.label for found in record.diagnoses)),
        (filters.decision, lambda: (found.decision for found in record.diagnoses)),
        (filters.modality, lambda: record.modalities),
        (filters.body_part, lambda: record.body_parts),
        (filters.sex, lambda: record.sexes),
        (filters.age_band, lambda: record.age_bands),
    )
    if any(values and not set(values).intersection(have()) for values, have in wanted):
        return False
    if not _within(views.iso_date(record.study_date), filters.study_date_from, filters.study_date_to):
        return False
    words = (record.study_instance_uid, *record.modalities, *record.body_parts, *(d.label for d in record.diagnoses))
    return not text or any(text in word.lower() for word in words if word)


def _within(day: date | None, first: date | None, last: date | None) -> bool:
    if first is None and last is None:
        return True
    return day is not None and (first is None or day >= first) and (last is None or day <= last)


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
