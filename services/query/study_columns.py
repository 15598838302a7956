"""The list of studies by columns: which studies pass the filters, and what each filter would find under the others.

Made once for each list that the catalogue gives, which stays the same one until a study changes; a request is then a
few passes over arrays. So counts are always of the very list that is shown.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.query import schema
from services.query.catalogue import Catalogue, StudyRecord
from services.query.requests import Filters
from services.query.views import iso_date

VALUES: Final[Mapping[str, Callable[[StudyRecord], Iterable[str | None]]]] = {
    "task": lambda record: {found.task for found in record.diagnoses},
    "decision": lambda record: {found.decision.value for found in record.diagnoses},
    "label": lambda record: {found.label for found in record.diagnoses},
    "modality": lambda record: record.modalities,
    "body_part": lambda record: record.body_parts,
    "sex": lambda record: record.sexes,
    "age_band": lambda record: record.age_bands,
}
"""Of each field the distinct values of a study."""

SEARCHED: Final = ("modality", "body_part", "label")
"""Fields that the text is looked for in, besides the Study Instance UID."""

Mask = NDArray[np.bool_]
_NO_DAY: Final = 0


@dataclass(frozen=True, slots=True)
class _Column:
    """One field: `names[codes[i]]` is a value of study `rows[i]`; no pair twice."""

    names: tuple[str, ...]
    codes: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, records: Sequence[StudyRecord], read: Callable[[StudyRecord], Iterable[str | None]]) -> _Column:
        known: dict[str, int] = {}
        codes, rows = [], []
        for row, record in enumerate(records):
            for value in read(record):
                if value:
                    codes.append(known.setdefault(value, len(known)))
                    rows.append(row)
        return cls(tuple(known), np.array(codes, np.int64), np.array(rows, np.int64))

    def having(self, is_wanted: Callable[[str], bool], studies: int) -> Mask:
        """(N,) the studies with a value that is wanted."""
        wanted = np.array([is_wanted(name) for name in self.names], np.bool_)
        found = np.zeros(studies, np.bool_)
        if wanted.any():
            found[self.rows[wanted[self.codes]]] = True
        return found

    def counts(self, studies: Mask) -> tuple[schema.FacetValue, ...]:
        """How many of these studies have each value, commonest first."""
        found = np.bincount(self.codes[studies[self.rows]], minlength=len(self.names))
        pairs = [(name, int(count)) for name, count in zip(self.names, found, strict=True) if count]
        return tuple(
            schema.FacetValue(value=name, studies=count)
            for name, count in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        )


@dataclass(frozen=True, slots=True)
class StudyColumns:
    """The studies of one list, newest first."""

    records: tuple[StudyRecord, ...]
    columns: Mapping[str, _Column]
    days: NDArray[np.int64]

    @classmethod
    def of(cls, records: tuple[StudyRecord, ...]) -> StudyColumns:
        """The columns of a list. Blocks, for a fraction of a second with 100,000 studies."""
        known: dict[str | None, int] = {}
        for record in records:
            if record.study_date not in known:
                day = iso_date(record.study_date)
                known[record.study_date] = day.toordinal() if day else _NO_DAY
        days = np.fromiter((known[record.study_date] for record in records), np.int64, len(records))
        return cls(records, {name: _Column.of(records, read) for name, read in VALUES.items()}, days)

    def find(self, filters: Filters, text: str = "") -> StudiesFound:
        """The studies that pass: between fields all, within a field any; `text` is in lower case."""
        passed = {
            name: column.having(set(chosen).__contains__, len(self.records))
            for name, column in self.columns.items()
            if (chosen := [str(value) for value in getattr(filters, name)])
        }
        base = self._within(filters.study_date_from, filters.study_date_to) & self._with(text)
        # By how many of the chosen fields a study fails.
        failed = np.zeros(len(self.records), np.int64)
        for mask in passed.values():
            failed += ~mask
        return StudiesFound(self, base, failed, passed)

    def _within(self, first: date | None, last: date | None) -> Mask:
        if first is None and last is None:
            return np.ones(len(self.records), np.bool_)
        low = first.toordinal() if first else _NO_DAY + 1
        high = last.toordinal() if last else date.max.toordinal()
        return (self.days >= low) & (self.days <= high)

    def _with(self, text: str) -> Mask:
        if not text:
            return np.ones(len(self.records), np.bool_)
        found = np.array([text in record.study_instance_uid for record in self.records], np.bool_)
        for name in SEARCHED:
            found |= self.columns[name].having(lambda value: text in value.lower(), len(self.records))
        return found


@dataclass(frozen=True, slots=True)
class StudiesFound:
    """What passes one set of filters."""

    _of: StudyColumns
    _base: Mask
    _failed: NDArray[np.int64]
    _passed: Mapping[str, Mask]

    @property
    def total(self) -> int:
        """How many studies pass."""
        return int(np.count_nonzero(self._matching()))

    def page(self, after: tuple[datetime, str] | None, limit: int) -> tuple[list[StudyRecord], bool]:
        """The next `limit` studies after that place in the order, and whether there are more."""
        records = self._of.records
        # The list descends.
        start = 0 if after is None else bisect_left(records, True, key=lambda record: record.order < after)
        left = start + np.flatnonzero(self._matching()[start:])
        return [records[row] for row in left[:limit]], len(left) > limit

    def facets(self) -> schema.Facets:
        """Counts of each field's values among the studies that pass all the other fields, the text and the dates."""
        counts = {}
        for name, column in self._of.columns.items():
            own = self._passed.get(name)
            others = self._failed if own is None else self._failed - ~own
            counts[name] = column.counts(self._base & (others == 0))
        return schema.Facets(studies=self.total, **counts)

    def _matching(self) -> Mask:
        matching: Mask = self._base & (self._failed == 0)
        return matching


@dataclass(slots=True)
class CurrentColumns:
    """The columns of the catalogue's list as it is now."""

    catalogue: Catalogue
    _latest: StudyColumns = field(default_factory=lambda: StudyColumns.of(()))
    _making: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> StudyColumns:
        """Made anew if the list is another. May block.

        Raises:
            ArchiveUnavailableError: the archive cannot be read.
        """
        records = self.catalogue.studies()
        with self._making:
            if self._latest.records is not records:
                self._latest = StudyColumns.of(records)
            return self._latest
