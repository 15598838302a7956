"""Counts of the list's filters: for each field under all the others, so that a choice shows its alternatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from services.query import schema
from services.query.catalogue import StudyRecord

VALUES: Final[Mapping[str, Callable[[StudyRecord], Iterable[str | None]]]] = {
    "task": lambda record: (found.task for found in record.diagnoses),
    "decision": lambda record: (found.decision.value for found in record.diagnoses),
    "label": lambda record: (found.label for found in record.diagnoses),
    "modality": lambda record: record.modalities,
    "body_part": lambda record: record.body_parts,
    "sex": lambda record: record.sexes,
    "age_band": lambda record: record.age_bands,
}


def count_facets(records: Iterable[StudyRecord], wanted: Mapping[str, Sequence[str]], matching: int) -> schema.Facets:
    """Of studies that pass every other filter.

    Args:
        records: The studies that pass the text and the dates.
        wanted: The chosen values by field; empty: all.
        matching: How many pass all of it.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in VALUES}
    for record in records:
        values = {name: {value for value in read(record) if value} for name, read in VALUES.items()}
        failed = [name for name, chosen in wanted.items() if chosen and values[name].isdisjoint(chosen)]
        for name in VALUES if not failed else failed if len(failed) == 1 else ():
            counts[name].update(values[name])
    return schema.Facets(
        studies=matching,
        **{
            name: tuple(
                schema.FacetValue(value=value, studies=count)
                for value, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
            )
            for name, found in counts.items()
        },
    )
