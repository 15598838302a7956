"""The step: from a starting point to its nearest neighbours and their vote. Knows no HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal
from uuid import UUID

import numpy as np

from services.query.cursors import mark
from services.query.ports import Encoder
from services.query.requests import Filters
from services.query.spaces import SpaceHead
from shared.errors import InvalidVectorError
from shared.events import StudyDiagnosed
from shared.ids import mean_id, point_id
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
    Region,
    VectorIndex,
)
from shared.vision.patch_grid import PatchGrid

Kind = Literal["study", "series", "instance", "frame", "vector", "upload"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a search starts: one vector, and what is known of the frames behind it."""

    kind: Kind
    vector: Embedding
    frames_used: int
    known: tuple[FramePayload, ...] = ()
    region: Region | None = None

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
    seen: frozenset[bytes] = frozenset()
    score_max: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Neighbours, best first, and whether there are more."""

    hits: tuple[Hit, ...]
    more: bool


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
        # Its ids may be another backbone's: the index moves, an archived diagnosis stays.
        evidence = dict.fromkeys(
            point_id(self.backbone_id, frame.sop_instance_uid, frame.frame_number)
            for diagnosis in diagnoses
            for frame in diagnosis.evidence
        )
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

    def from_frames(self, frames: Sequence[Frame], encoder: Encoder, head: SpaceHead | None = None) -> Start:
        """Uploaded frames: the mean of their embeddings, or of their places in a head's space. Nothing is kept."""
        features = encoder.encode(frames)
        vectors = features.embeddings() if head is None else head.project(features.cls)
        assert vectors is not None, "a space without a projection is not searched"
        return Start("upload", _unit_mean([row.astype(np.float32) for row in vectors]), len(frames))

    def from_region(self, frame: Frame, region: Region, encoder: Encoder, known: Sequence[FramePayload] = ()) -> Start:
        """A box on a frame: the mean of the patch tokens whose centres lie in it.

        Raises:
            InvalidVectorError: the encoder gives no patch tokens.
        """
        tokens = encoder.encode([frame]).patches
        if tokens is None:
            raise InvalidVectorError("the encoder keeps no patch tokens: regions cannot be searched")
        grid = PatchGrid.of(frame, patches=tokens.shape[1], size_px=encoder.input_size_px)
        vector = _unit_mean(list(tokens[0][grid.within(region)]))
        return Start("frame" if known else "upload", vector, 1, tuple(known), region)

    def of_mean(self, start: Start, instance_uid: str) -> Start:
        """The same start by the indexed mean of the whole series or study, where it is indexed."""
        found = self.index.retrieve([mean_id(self.backbone_id, instance_uid)])
        return replace(start, vector=found[0].vector) if found else start

    def neighbours(self, start: Start, wish: Wish) -> list[Hit]:
        """The nearest frames, best first; never one of the query's own study.

        Raises:
            InvalidVectorError: the vector is zero, not finite, or of another dimension.
            IndexUnavailableError: the index did not answer in time.
        """
        where = Filter(must=conditions(wish.filters), must_not=_own_conditions(start, wish.exclude_own_patient))
        find = self.index.search if wish.by_frame else self.index.search_studies
        return find(start.vector, limit=wish.limit, where=where)

    def page(self, start: Start, wish: Wish, *, fetch_max: int) -> Page:
        """The neighbours after those that `wish` names as seen: none of them again, none above its score.

        Of what came to be since, so much is looked through as `fetch_max` allows.
        """
        wanted = len(wish.seen) + wish.limit + 1
        while True:
            fetched = min(wanted, fetch_max)
            hits = self.neighbours(start, replace(wish, limit=fetched))
            left = [hit for hit in hits if self._is_next(hit, wish)]
            if len(left) > wish.limit or len(hits) < fetched or fetched == fetch_max:
                return Page(tuple(left[: wish.limit]), len(left) > wish.limit)
            wanted *= 2

    def _is_next(self, hit: Hit, wish: Wish) -> bool:
        return (wish.score_max is None or hit.score <= wish.score_max) and mark_of(hit, wish.by_frame) not in wish.seen

    def _own(self, ids: Iterable[UUID], study_instance_uid: str) -> list[FramePoint]:
        wanted = list(ids)[: self.frames_max]
        found = self.index.retrieve(wanted) if wanted else []
        return [point for point in found if point.payload.study_instance_uid == study_instance_uid]

    def _matching(self, field: Field, value: str) -> list[FramePoint]:
        return self.index.scroll(limit=self.frames_max, where=Filter(must=(AnyOf(field, (value,)),)))


def mark_of(hit: Hit, by_frame: bool) -> bytes:
    """What a neighbour is known by between pages: its study, or itself."""
    return mark(str(hit.id) if by_frame else hit.payload.study_instance_uid)


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
