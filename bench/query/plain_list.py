"""The list of studies and its counts the plain way, one study after the other: what `StudyColumns` must equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date

from services.query import schema
from services.query.catalogue import StudyRecord
from services.query.requests import Filters
from services.query.study_columns import VALUES
from services.query.views import iso_date


def matching(records: Sequence[StudyRecord], filters: Filters, text: str) -> list[StudyRecord]:
    """The studies that pass."""
    return [record for record in records if not failed(record, filters) and is_among(record, filters, text)]


def facets(records: Sequence[StudyRecord], filters: Filters, text: str) -> schema.Facets:
    """Of each field's values, how many studies pass all the others."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in VALUES}
    for record in records:
        if is_among(record, filters, text):
            fails = failed(record, filters)
            for name in VALUES if not fails else fails if len(fails) == 1 else ():
                counts[name].update(values(record, name))
    return schema.Facets(
        studies=len(matching(records, filters, text)),
        **{
            name: tuple(
                schema.FacetValue(value=value, studies=count)
                for value, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
            )
            for name, found in counts.items()
        },
    )


def failed(record: StudyRecord, filters: Filters) -> list[str]:
    """The fields whose filter the study does not pass."""
    return [
        name
        for name in VALUES
        if getattr(filters, name) and values(record, name).isdisjoint(map(str, getattr(filters, name)))
    ]


def values(record: StudyRecord, name: str) -> set[str]:
    """Of one field."""
    return {value for value in VALUES[name](record) if value}


def is_among(record: StudyRecord, filters: Filters, text: str) -> bool:
    """Whether the study has the text and lies within the dates."""
    words = (record.study_instance_uid, *record.modalities, *record.body_parts, *(d.label for d in record.diagnoses))
    has_text = not text or any(text in word.lower() for word in words if word)
    return has_text and _within(iso_date(record.study_date), filters.study_date_from, filters.study_date_to)


def _within(day: date | None, first: date | None, last: date | None) -> bool:
    if first is None and last is None:
        return True
    return day is not None and (first is None or day >= first) and (last is None or day <= last)
