"""The step: from a starting point to its nearest neighbours and their vote. Knows no HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal
from uuid import UUID

import numpy as np

from services.query.ports import Encoder
from services.query.requests import Filters
from shared.errors import InvalidVectorError
from shared.events import StudyDiagnosed
from shared.ids import point_id
from shared.pixels.frame import Frame
from shared.vector_index.port import (
    AnyOf,
    Between,
    Condition,
    Embedding,
    Field,
    Filter,
    FramePayload,
    FramePoint,
    Hit,
    VectorIndex,
)

Kind = Literal["study", "series", "instance", "frame", "vector", "upload"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a search starts: one vector, and what is known of the frames behind it."""

    kind: Kind
    vector: Embedding
    frames_used: int
    known: tuple[FramePayload, ...] = ()

    @property
    def of_study(self) -> FramePayload | None:
        """The payload that speaks for the query's study."""
        return self.known[0] if self.known else None


@dataclass(frozen=True, slots=True)
class Wish:
    """What may be found, and how much of it."""

    limit: int
    filters: Filters
    by_frame: bool = False
    exclude_own_patient: bool = True


@dataclass(frozen=True, slots=True)
class Tally:
    """The neighbours' votes; `label` is None without voters and on a tie."""

    label: str | None
    votes: int
    voters: int
    without_label: int
    tie: bool
    counts: tuple[tuple[str, int], ...]


class NotIndexedError(LookupError):
    """Nothing in the index belongs to the starting point."""


@dataclass(frozen=True, slots=True)
class FindSimilar:
    """Nearest neighbours in one backbone's collection. All methods may block."""

    index: VectorIndex
    backbone_id: str
    frames_max: int

    def from_study(self, study_instance_uid: str, diagnoses: Sequence[StudyDiagnosed]) -> Start:
        """A study is searched by what it was judged by: its evidence frames of every task.

        One with no (indexed) evidence, such as one that no task takes, is searched by the mean of
        all its indexed frames.

        Raises:
            NotIndexedError: the study has no indexed frame.
        """
        evidence = dict.fromkeys(frame.point_id for diagnosis in diagnoses for frame in diagnosis.evidence)
        points = self._own(evidence, study_instance_uid)
        if not points:
            points = self._matching("study_instance_uid", study_instance_uid)
        return _mean("study", points)

    def from_series(self, series_instance_uid: str) -> Start:
        """The mean of a series' indexed frames.

        Raises:
            NotIndexedError: the series has no indexed frame.
        """
        return _mean("series", self._matching("series_instance_uid", series_instance_uid))

    def from_instance(self, sop_instance_uid: str, frame_number: int | None) -> Start:
        """One frame; without a number the mean of the instance's indexed frames.

        Raises:
            NotIndexedError: the frame, or the instance, is not indexed.
        """
        if frame_number is None:
            return _mean("instance", self._matching("sop_instance_uid", sop_instance_uid))
        return _mean("frame", self.index.retrieve([point_id(self.backbone_id, sop_instance_uid, frame_number)]))

    def from_vector(self, values: Sequence[float]) -> Start:
        """An embedding of the client's own."""
        wide = np.asarray(values, dtype=np.float64)
        # Any length is welcome: only the direction counts, and float32 must hold it.
        peak = float(np.abs(wide).max(initial=0.0)) or 1.0
        return Start("vector", (wide / peak).astype(np.float32), 0)

    def from_frames(self, frames: Sequence[Frame], encoder: Encoder) -> Start:
        """Uploaded frames: the mean of their embeddings. Nothing of them is kept."""
        return Start("upload", _unit_mean(list(encoder.encode(frames).embeddings())), len(frames))

    def neighbours(self, start: Start, wish: Wish) -> list[Hit]:
        """The nearest frames, best first; never one of the query's own study.

        Raises:
            InvalidVectorError: the vector is zero, not finite, or of another dimension.
            IndexUnavailableError: the index did not answer in time.
        """
        where = Filter(must=conditions(wish.filters), must_not=_own_conditions(start, wish.exclude_own_patient))
        find = self.index.search if wish.by_frame else self.index.search_studies
        return find(start.vector, limit=wish.limit, where=where)

    def _own(self, ids: Iterable[UUID], study_instance_uid: str) -> list[FramePoint]:
        wanted = list(ids)[: self.frames_max]
        found = self.index.retrieve(wanted) if wanted else []
        return [point for point in found if point.payload.study_instance_uid == study_instance_uid]

    def _matching(self, field: Field, value: str) -> list[FramePoint]:
        return self.index.scroll(limit=self.frames_max, where=Filter(must=(AnyOf(field, (value,)),)))


def conditions(filters: Filters) -> tuple[Condition, ...]:
    """The filter language of the wire in that of the index."""
    wanted: tuple[tuple[Field, Sequence[str]], ...] = (
        ("task", filters.task),
        ("label", filters.label),
        ("decision", [decision.value for decision in filters.decision]),
        ("modality", filters.modality),
        ("body_part", filters.body_part),
        ("sex", filters.sex),
        ("age_band", filters.age_band),
    )
    found: list[Condition] = [AnyOf(field, tuple(values)) for field, values in wanted if values]
    if filters.study_date_from or filters.study_date_to:
        found.append(Between("study_date", _yyyymmdd(filters.study_date_from), _yyyymmdd(filters.study_date_to)))
    return tuple(found)


def tally(hits: Sequence[Hit]) -> Tally:
    """One vote for each study among `hits`: its best frame's label."""
    best: dict[str, str | None] = {}
    for hit in hits:
        best.setdefault(hit.payload.study_instance_uid, hit.payload.label)
    counted = Counter(label for label in best.values() if label is not None)
    counts = tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
    voters = sum(counted.values())
    votes = counts[0][1] if counts else 0
    tie = len(counts) > 1 and counts[1][1] == votes
    label = counts[0][0] if counts and not tie else None
    return Tally(label, votes, voters, len(best) - voters, tie, counts)


def _own_conditions(start: Start, exclude_own_patient: bool) -> tuple[Condition, ...]:
    if not start.known:
        return ()
    studies = tuple(sorted({payload.study_instance_uid for payload in start.known}))
    own: list[Condition] = [AnyOf("study_instance_uid", studies)]
    if exclude_own_patient:
        patients = tuple(sorted({payload.patient_pseudonym for payload in start.known}))
        own.append(AnyOf("patient_pseudonym", patients))
    return tuple(own)


def _mean(kind: Kind, points: Sequence[FramePoint]) -> Start:
    if not points:
        raise NotIndexedError(f"no indexed frame for this {kind}")
    vector = _unit_mean([point.vector for point in points])
    return Start(kind, vector, len(points), tuple(point.payload for point in points))


def _unit_mean(vectors: Sequence[Embedding]) -> Embedding:
    """The normalised mean, (D,)."""
    mean = np.mean(np.stack(vectors).astype(np.float64), axis=0)
    norm = float(np.linalg.norm(mean))
    if not np.isfinite(norm) or norm < 1e-6:
        raise InvalidVectorError("the frames' embeddings cancel each other: search by a single frame")
    unit: Embedding = (mean / norm).astype(np.float32)
    return unit


def _yyyymmdd(day: date | None) -> int | None:
    return int(day.strftime("%Y%m%d")) if day is not None else None
