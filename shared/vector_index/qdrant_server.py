"""A Qdrant server, one collection, through qdrant-client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar
from uuid import UUID

import grpc
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from shared.errors import ConfigurationError
from shared.settings import QdrantSettings
from shared.vector_index.filters import is_empty, require_keyword
from shared.vector_index.port import (
    INTEGER_FIELDS,
    KEYWORD_FIELDS,
    AnyOf,
    Condition,
    Embedding,
    Field,
    Filter,
    FramePayload,
    FramePoint,
    Hit,
)
from shared.vector_index.qdrant_connection import ENGINE_ERRORS, code_of, connected, translate
from shared.vector_index.studies import best_of_each_study
from shared.vector_index.vectors import checked, checked_points, cosine, normalized

T = TypeVar("T")

_POINTS_PER_REQUEST = 500
_EVERY_VALUE = 1_000_000
_LAST_ID = UUID(int=2**128 - 1)
_INDEXES: dict[str, models.PayloadSchemaType] = {
    **dict.fromkeys(KEYWORD_FIELDS, models.PayloadSchemaType.KEYWORD),
    **dict.fromkeys(INTEGER_FIELDS, models.PayloadSchemaType.INTEGER),
}


_SEARCH = models.SearchParams(hnsw_ef=64, quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))


class _Grouped(NamedTuple):
    hit: Hit
    study: str


class QdrantServerIndex:
    """A `VectorIndex` on a server. The collection and its payload indexes are made on first use."""

    def __init__(self, client: QdrantClient, *, collection: str, dim: int) -> None:
        self._client = client
        self._collection = collection
        self._dim = dim
        self._guard = threading.Lock()
        self._ready = False

    @classmethod
    def connect(cls, settings: QdrantSettings, *, collection: str, dim: int) -> QdrantServerIndex:
        """The index on the server at `settings.url`; nothing is asked of it yet."""
        return cls(connected(settings), collection=collection, dim=dim)

    def upsert(self, points: Sequence[FramePoint]) -> None:
        self._store(points, models.UpdateMode.UPSERT)

    def insert(self, points: Sequence[FramePoint]) -> None:
        first = [*{point.id: point for point in reversed(points)}.values()]
        self._store(first, models.UpdateMode.INSERT_ONLY)

    def _store(self, points: Sequence[FramePoint], mode: models.UpdateMode) -> None:
        rows = checked_points(points, self._dim)
        stored = [
            models.PointStruct(
                id=str(point.id), vector=row.tolist(), payload=point.payload.model_dump(exclude_none=True)
            )
            for point, row in zip(points, rows, strict=True)
        ]
        for start in range(0, len(stored), _POINTS_PER_REQUEST):
            part = stored[start : start + _POINTS_PER_REQUEST]
            # The server logs the operation before it answers: a killed server replays it.
            self._ask(partial(self._client.upsert, self._collection, points=part, wait=True, update_mode=mode))

    def search(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        row = checked(vector, self._dim)
        if limit < 1:
            return []
        answer = self._ask(
            lambda: self._client.query_points(
                self._collection,
                query=row.tolist(),
                query_filter=_compile(where),
                search_params=_SEARCH,
                limit=limit,
                with_payload=True,
            )
        )
        return [_hit(point) for point in answer.points]

    def search_studies(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        row = checked(vector, self._dim)

        # The server stops after a few rounds when large studies crowd its candidates, hence the repeats.
        def grouped(narrowed: Filter, _: int) -> list[_Grouped]:
            answer = self._ask(
                lambda: self._client.query_points_groups(
                    self._collection,
                    group_by="study_instance_uid",
                    query=row.tolist(),
                    query_filter=_compile(narrowed),
                    search_params=_SEARCH,
                    limit=limit,
                    group_size=1,
                    with_payload=True,
                )
            )
            hits = [_hit(point) for group in answer.groups for point in group.hits]
            return [_Grouped(hit, hit.payload.study_instance_uid) for hit in sorted(hits, key=lambda hit: -hit.score)]

        return [one.hit for one in best_of_each_study(grouped, limit=limit, where=where)]

    def retrieve(self, ids: Sequence[UUID]) -> list[FramePoint]:
        wanted = [str(key) for key in dict.fromkeys(ids)]
        if not wanted:
            return []
        records = self._ask(
            lambda: self._client.retrieve(self._collection, ids=wanted, with_payload=True, with_vectors=True)
        )
        found = {point.id: point for point in map(_point, records)}
        return [found[key] for key in ids if key in found]

    def scroll(self, *, limit: int, where: Filter = Filter(), after: UUID | None = None) -> list[FramePoint]:
        if limit < 1 or after == _LAST_ID:
            return []
        offset = None if after is None else str(UUID(int=after.int + 1))
        records, _ = self._ask(
            lambda: self._client.scroll(
                self._collection,
                scroll_filter=_compile(where),
                limit=limit,
                offset=offset,
                with_payload=True,
                with_vectors=True,
            )
        )
        return [_point(record) for record in records]

    def count(self, where: Filter = Filter()) -> int:
        return self._ask(lambda: self._client.count(self._collection, count_filter=_compile(where), exact=True)).count

    def facet(self, field: Field, where: Filter = Filter()) -> dict[str, int]:
        require_keyword(field)
        answer = self._ask(
            lambda: self._client.facet(
                self._collection, key=field, facet_filter=_compile(where), limit=_EVERY_VALUE, exact=True
            )
        )
        return {str(hit.value): hit.count for hit in answer.hits}

    def delete(self, where: Filter) -> None:
        if is_empty(where):
            raise ValueError("an empty filter would delete everything")
        selector = models.FilterSelector(filter=_compile(where))
        self._ask(lambda: self._client.delete(self._collection, points_selector=selector, wait=True))

    def close(self) -> None:
        self._client.close()

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            with self._guard:
                if not self._ready:
                    self._prepare()
                    self._ready = True
            return call()
        except ENGINE_ERRORS as error:
            translated = translate(error)
            # The collection may have been dropped, or the server replaced by an empty one.
            self._ready = False
            raise translated from error

    def _prepare(self) -> None:
        if not self._client.collection_exists(self._collection):
            self._unless_there(
                lambda: self._client.create_collection(
                    self._collection,
                    vectors_config=models.VectorParams(size=self._dim, distance=models.Distance.COSINE),
                    quantization_config=models.ScalarQuantization(
                        scalar=models.ScalarQuantizationConfig(
                            type=models.ScalarType.INT8, quantile=0.99, always_ram=True
                        )
                    ),
                )
            )
        info = self._client.get_collection(self._collection)
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.size != self._dim:
            raise ConfigurationError(
                f"collection {self._collection} does not hold vectors of length {self._dim}: "
                "another backbone needs another collection"
            )
        for name, kind in _INDEXES.items():
            # Only what is missing: a reader's key may not write.
            if name not in info.payload_schema:
                self._client.create_payload_index(self._collection, name, field_schema=kind, wait=True)

    @staticmethod
    def _unless_there(create: Callable[[], object]) -> None:
        try:
            create()
        except (grpc.RpcError, UnexpectedResponse) as error:
            # Another worker was first.
            if code_of(error) not in (409, grpc.StatusCode.ALREADY_EXISTS):
                raise


def _compile(where: Filter) -> models.Filter | None:
    if is_empty(where):
        return None
    return models.Filter(
        must=[_condition(condition) for condition in where.must],
        must_not=[_condition(condition) for condition in where.must_not],
    )


def _condition(condition: Condition) -> models.Condition:
    if isinstance(condition, AnyOf):
        return models.FieldCondition(key=condition.field, match=models.MatchAny(any=list(condition.values)))
    if condition.low is None and condition.high is None:
        absent = models.IsEmptyCondition(is_empty=models.PayloadField(key=condition.field))
        return models.Filter(must_not=[absent])
    return models.FieldCondition(key=condition.field, range=models.Range(gte=condition.low, lte=condition.high))


def _hit(point: models.ScoredPoint) -> Hit:
    return Hit(UUID(str(point.id)), cosine(point.score), FramePayload.model_validate(point.payload))


def _point(record: models.Record) -> FramePoint:
    vector = normalized(np.asarray(record.vector, dtype=np.float32))
    return FramePoint(UUID(str(record.id)), vector, FramePayload.model_validate(record.payload))
