"""The ports. A `VectorIndex` is bound to one collection; `Aliases` name collections that may be exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from uuid import UUID

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from shared.ids import Uid

Embedding = NDArray[np.float32]
"""(D,), L2 norm 1."""


class Region(BaseModel):
    """A part of a frame, in shares of its width and height: 0 is left or top, 1 is right or bottom."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    left: float = pydantic.Field(ge=0, le=1)
    top: float = pydantic.Field(ge=0, le=1)
    width: float = pydantic.Field(gt=0, le=1)
    height: float = pydantic.Field(gt=0, le=1)


class FramePayload(BaseModel):
    """What is stored beside a frame's embedding. Every field but the UIDs of objects can be filtered."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    study_instance_uid: Uid
    series_instance_uid: Uid
    sop_instance_uid: Uid
    frame_number: PositiveInt
    revision: PositiveInt
    modality: str
    body_part: str | None = None
    patient_pseudonym: str
    sex: str | None = None
    age_band: str | None = None
    study_date: int | None = None
    backbone_id: str
    task: str
    decision: str
    label: str | None = None
    label_source: Literal["predicted", "confirmed"] = "predicted"
    region: Region | None = None


Field = Literal[
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "modality",
    "body_part",
    "patient_pseudonym",
    "sex",
    "age_band",
    "study_date",
    "task",
    "decision",
    "label",
]
KEYWORD_FIELDS: tuple[Field, ...] = (
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "modality",
    "body_part",
    "patient_pseudonym",
    "sex",
    "age_band",
    "task",
    "decision",
    "label",
)
INTEGER_FIELDS: tuple[Field, ...] = ("study_date",)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field's value is one of `values`."""

    field: Field
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The integer field lies within [`low`, `high`]; None leaves an end open."""

    field: Field
    low: int | None = None
    high: int | None = None


Condition = AnyOf | Between


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must` and none of `must_not`. A point without the field meets no condition on it."""

    must: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class FramePoint:
    """One frame: its deterministic id, its embedding, its payload."""

    id: UUID
    vector: Embedding
    payload: FramePayload


@dataclass(frozen=True, slots=True)
class Hit:
    """A found frame; `score` is the cosine similarity, -1 to 1."""

    id: UUID
    score: float
    payload: FramePayload


@runtime_checkable
class VectorIndex(Protocol):
    """Frames by similarity. All methods may block; call them from a thread.

    Every method raises `IndexUnavailableError` if the engine does not answer in time.
    """

    def upsert(self, points: Sequence[FramePoint]) -> None:
        """Store or replace `points`; when it returns they survive a kill of any process. Safe to repeat.

        Raises:
            InvalidVectorError: a vector is NaN, zero, or of the wrong dimension; nothing is stored.
        """

    def insert(self, points: Sequence[FramePoint]) -> None:
        """Store those of `points` whose ids are not there yet and leave the others as they are; lasts as `upsert` does.

        For a backfill beside a live writer: it never puts an old point over a newer one. Of two with one id the
        first counts.

        Raises:
            InvalidVectorError: a vector is NaN, zero, or of the wrong dimension; nothing is stored.
        """

    def search(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        """The `limit` most similar frames, best first.

        Raises:
            InvalidVectorError: `vector` is NaN, zero, or of the wrong dimension.
        """

    def search_studies(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        """The best frame of each of the `limit` most similar studies, best first."""

    def retrieve(self, ids: Sequence[UUID]) -> list[FramePoint]:
        """The points with these ids, in the order of `ids`; unknown ids are left out."""

    def scroll(self, *, limit: int, where: Filter = Filter(), after: UUID | None = None) -> list[FramePoint]:
        """Points in the order of their ids, those after the id `after`: a stable cursor."""

    def count(self, where: Filter = Filter()) -> int:
        """How many points meet the filter, exactly."""

    def facet(self, field: Field, where: Filter = Filter()) -> dict[str, int]:
        """How many points each value of a keyword field has."""

    def delete(self, where: Filter) -> None:
        """Remove the points that meet the filter. An empty filter is refused with ValueError."""

    def close(self) -> None:
        """Release connections and files. The index is not used afterwards."""


@runtime_checkable
class Aliases(Protocol):
    """Names that stand for collections. All methods may block; call them from a thread.

    Every method raises `IndexUnavailableError` if the engine does not answer in time.
    """

    def get(self, alias: str) -> str | None:
        """The collection that `alias` stands for; None if it was never switched."""

    def switch(self, alias: str, collection: str) -> None:
        """Let `alias` stand for `collection`, at once for every reader; when it returns this survives a kill.

        Raises:
            ConfigurationError: the engine holds no such collection, or `alias` cannot be a name.
        """

    def collections(self) -> list[str]:
        """The names of all collections that the engine holds, in order."""

    def drop(self, collection: str) -> None:
        """Remove a collection and all its points for good; when it returns this survives a kill.

        Whoever still writes to it makes a new one, so stop the writers first.

        Raises:
            ConfigurationError: there is no such collection, or an alias stands for it.
        """

    def close(self) -> None:
        """Release connections. Not used afterwards."""
