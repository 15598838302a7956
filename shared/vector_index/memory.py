"""The working fakes: exact search over a matrix and aliases in a dict, in this process, gone when it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

import numpy as np

from shared.vector_index.filters import is_empty, meets, require_keyword
from shared.vector_index.names import require_known, require_name, require_unused
from shared.vector_index.port import Embedding, Field, Filter, FramePoint, Hit
from shared.vector_index.vectors import checked, checked_points, cosine, normalized


class MemoryIndex:
    """A `VectorIndex` of vectors of length `dim`; safe to use from several threads."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._lock = threading.Lock()
        self._points: dict[UUID, FramePoint] = {}

    def upsert(self, points: Sequence[FramePoint]) -> None:
        rows = normalized(checked_points(points, self._dim))
        with self._lock:
            for point, row in zip(points, rows, strict=True):
                self._points[point.id] = FramePoint(point.id, row, point.payload)

    def insert(self, points: Sequence[FramePoint]) -> None:
        rows = normalized(checked_points(points, self._dim))
        with self._lock:
            for point, row in zip(points, rows, strict=True):
                self._points.setdefault(point.id, FramePoint(point.id, row, point.payload))

    def search(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        return self._ranked(vector, where)[:limit]

    def search_studies(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        best: dict[str, Hit] = {}
        for hit in self._ranked(vector, where):
            best.setdefault(hit.payload.study_instance_uid, hit)
        return list(best.values())[:limit]

    def retrieve(self, ids: Sequence[UUID]) -> list[FramePoint]:
        with self._lock:
            return [self._points[wanted] for wanted in ids if wanted in self._points]

    def scroll(self, *, limit: int, where: Filter = Filter(), after: UUID | None = None) -> list[FramePoint]:
        found = sorted(self._matching(where), key=lambda point: point.id)
        return [point for point in found if after is None or point.id > after][:limit]

    def count(self, where: Filter = Filter()) -> int:
        return len(self._matching(where))

    def facet(self, field: Field, where: Filter = Filter()) -> dict[str, int]:
        require_keyword(field)
        values = (getattr(point.payload, field) for point in self._matching(where))
        return dict(Counter(value for value in values if value is not None))

    def delete(self, where: Filter) -> None:
        if is_empty(where):
            raise ValueError("an empty filter would delete everything")
        with self._lock:
            self._points = {key: point for key, point in self._points.items() if not meets(point.payload, where)}

    def close(self) -> None:
        with self._lock:
            self._points = {}

    def _matching(self, where: Filter) -> list[FramePoint]:
        with self._lock:
            points = list(self._points.values())
        return [point for point in points if meets(point.payload, where)]

    def _ranked(self, vector: Embedding, where: Filter) -> list[Hit]:
        query = normalized(checked(vector, self._dim))
        found = self._matching(where)
        if not found:
            return []
        scores = np.stack([point.vector for point in found]) @ query
        order = np.argsort(-scores, kind="stable")
        return [Hit(found[i].id, cosine(scores[i]), found[i].payload) for i in order]


class MemoryAliases:
    """`Aliases` over the given collections."""

    def __init__(self, collections: Iterable[str]) -> None:
        self._collections = sorted(collections)
        self._targets: dict[str, str] = {}

    def get(self, alias: str) -> str | None:
        return self._targets.get(alias)

    def switch(self, alias: str, collection: str) -> None:
        require_name(alias)
        require_known(collection, self._collections)
        self._targets[alias] = collection

    def collections(self) -> list[str]:
        return list(self._collections)

    def drop(self, collection: str) -> None:
        require_known(collection, self._collections)
        require_unused(collection, self._targets)
        self._collections.remove(collection)

    def close(self) -> None:
        """Nothing to release."""
