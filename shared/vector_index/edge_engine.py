"""Qdrant Edge, the embedded engine: one collection in one folder, owned by one process.

It is meant to be driven by `edge_server` in a process of its own: the engine holds the GIL during
every call, does not survive a fork, and a second opener of its files makes the first one's flushes fail.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from shared.errors import ConfigurationError, IndexUnavailableError
from shared.vector_index.edge_settings import IndexSection
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
from shared.vector_index.studies import best_of_each_study
from shared.vector_index.vectors import checked, checked_points, cosine, normalized

log = logging.getLogger(__name__)
T = TypeVar("T")

_LAST_ID = UUID(int=2**128 - 1)
_EVERY_VALUE = 2**31


class FolderLock:
    """An advisory lock on a folder, held until `release` or the process's end."""

    def __init__(self, folder: Path) -> None:
        """Take it at once.

        Raises:
            ConfigurationError: another process holds it, or the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"cannot use the index folder {folder}: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ConfigurationError(f"the index folder {folder} is in use by process {owner}") from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it back."""
        os.close(self._file)


class EdgeEngine:
    """A `VectorIndex` on the embedded engine, in this process.

    An error of the engine closes it; the next call opens it again and so replays its log.
    """

    def __init__(self, folder: Path, *, dim: int | None = None, settings: IndexSection = IndexSection()) -> None:
        """Open the collection in `folder`, or make one of vectors of length `dim`.

        Raises:
            ConfigurationError: the folder is in use, holds no collection and `dim` is None, or holds
                vectors of another length.
            IndexUnavailableError: the engine cannot open its files.
        """
        self._shard_dir = folder / "shard"
        self._settings = settings
        self._guard = threading.RLock()
        self._shard: edge.EdgeShard | None = None
        self._lock = FolderLock(folder)
        try:
            self.dim = self._stored_dim() or self._create(dim)
            self.require_dim(dim)
            self._run(lambda shard: None)
        except BaseException:
            self._lock.release()
            raise

    def require_dim(self, dim: int | None) -> None:
        """Raise ConfigurationError if vectors of length `dim` do not belong here."""
        if dim is not None and dim != self.dim:
            raise ConfigurationError(
                f"the collection in {self._shard_dir.parent} holds vectors of length {self.dim}, not {dim}: "
                "another backbone needs another collection"
            )

    def upsert(self, points: Sequence[FramePoint]) -> None:
        self.apply(points)
        self.flush()

    def apply(self, points: Sequence[FramePoint]) -> None:
        """Store or replace `points` without waiting for the disk; `flush` makes them last."""
        rows = checked_points(points, self.dim)
        stored = [
            edge.Point(point.id, row, point.payload.model_dump(exclude_none=True))
            for point, row in zip(points, rows, strict=True)
        ]
        if stored:
            self._run(lambda shard: shard.update(edge.UpdateOperation.upsert_points(stored)))

    def flush(self) -> None:
        """Write everything to the disk."""
        self._run(lambda shard: shard.flush())

    def search(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        row = checked(vector, self.dim)
        if limit < 1:
            return []
        request = edge.QueryRequest(
            limit=limit, query=edge.Query.Nearest(row.tolist()), filter=_compile(where), with_payload=True
        )
        found = self._run(lambda shard: shard.query(request))
        return [Hit(_uuid(hit.id), cosine(hit.score), FramePayload.model_validate(hit.payload)) for hit in found]

    def search_studies(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        return best_of_each_study(
            lambda narrowed: self.search(vector, limit=8 * limit, where=narrowed), limit=limit, where=where
        )

    def retrieve(self, ids: Sequence[UUID]) -> list[FramePoint]:
        wanted: list[int | UUID | str] = [*dict.fromkeys(ids)]
        records = self._run(lambda shard: shard.retrieve(wanted, True, True)) if wanted else []
        found = {point.id: point for point in map(_point, records)}
        return [found[key] for key in ids if key in found]

    def scroll(self, *, limit: int, where: Filter = Filter(), after: UUID | None = None) -> list[FramePoint]:
        if limit < 1 or after == _LAST_ID:
            return []
        request = edge.ScrollRequest(
            offset=None if after is None else UUID(int=after.int + 1),
            limit=limit,
            filter=_compile(where),
            with_payload=True,
            with_vector=True,
        )
        records, _ = self._run(lambda shard: shard.scroll(request))
        return [_point(record) for record in records]

    def count(self, where: Filter = Filter()) -> int:
        return self._run(lambda shard: shard.count(edge.CountRequest(exact=True, filter=_compile(where))))

    def facet(self, field: Field, where: Filter = Filter()) -> dict[str, int]:
        require_keyword(field)
        request = edge.FacetRequest(field, limit=_EVERY_VALUE, exact=True, filter=_compile(where))
        return {str(hit.value): hit.count for hit in self._run(lambda shard: shard.facet(request)).hits}

    def delete(self, where: Filter) -> None:
        if is_empty(where):
            raise ValueError("an empty filter would delete everything")
        compiled = _compile(where)
        self._run(lambda shard: shard.update(edge.UpdateOperation.delete_points_by_filter(compiled)))
        self.flush()

    def optimize(self) -> bool:
        """Build graphs and drop deleted points where that is due; says whether anything was done.

        Blocks every thread of the process, for the better part of a minute with 100,000 points.
        """
        return self._run(lambda shard: shard.optimize())

    def close(self) -> None:
        with self._guard:
            try:
                if self._shard is not None:
                    self.flush()
            finally:
                self._discard()
                self._lock.release()

    def _run(self, work: Callable[[edge.EdgeShard], T]) -> T:
        with self._guard:
            try:
                if self._shard is None:
                    self._shard = self._load()
                return work(self._shard)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # The engine raises plain Exception, and panics of its Rust code are no Exception at all.
                self._discard()
                raise IndexUnavailableError(f"the embedded engine failed: {error}") from error

    def _discard(self) -> None:
        shard, self._shard = self._shard, None
        if shard is None:
            return
        try:
            shard.close()
        except Exception:
            log.warning("the engine did not close cleanly", exc_info=True)

    def _load(self) -> edge.EdgeShard:
        shard = edge.EdgeShard.load(str(self._shard_dir), self._config(self.dim))
        missing = set(_INDEXES) - set(shard.info().payload_schema)
        for name in sorted(missing):
            shard.update(edge.UpdateOperation.create_field_index(name, _INDEXES[name]))
        return shard

    def _create(self, dim: int | None) -> int:
        if dim is None:
            raise ConfigurationError(f"{self._shard_dir.parent} holds no collection")
        # Made aside and renamed, so that a kill in between leaves nothing half made in its place.
        draft = self._shard_dir.with_name("shard.new")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            shard = edge.EdgeShard.create(str(draft), self._config(dim))
            # Indexed before anything is loaded: later indexes leave the graph without links for filters.
            for name, kind in _INDEXES.items():
                shard.update(edge.UpdateOperation.create_field_index(name, kind))
            shard.flush()
            shard.close()
            draft.rename(self._shard_dir)
        except Exception as error:
            raise IndexUnavailableError(f"the embedded engine cannot make {self._shard_dir}: {error}") from error
        _sync_folder(self._shard_dir.parent)
        return dim

    def _stored_dim(self) -> int | None:
        path = self._shard_dir / "edge_config.json"
        if not path.exists():
            return None
        try:
            return int(json.loads(path.read_text())["vectors"][""]["size"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path} is not a configuration of this engine: {error}") from error

    def _config(self, dim: int) -> edge.EdgeConfig:
        kilobytes = max(1, self._settings.flat_below_points * dim * 4 // 1024)
        return edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine),
            hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=10_000),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=kilobytes),
            wal_enabled=True,
        )


_INDEXES: dict[str, edge.PayloadSchemaType] = {
    **dict.fromkeys(KEYWORD_FIELDS, edge.PayloadSchemaType.Keyword),
    **dict.fromkeys(INTEGER_FIELDS, edge.PayloadSchemaType.Integer),
}


def _compile(where: Filter) -> edge.Filter:
    return edge.Filter(
        must=[_condition(condition) for condition in where.must],
        must_not=[_condition(condition) for condition in where.must_not],
    )


def _condition(condition: Condition) -> edge.FieldCondition:
    if isinstance(condition, AnyOf):
        return edge.FieldCondition(condition.field, match=edge.MatchAny(list(condition.values)))
    return edge.FieldCondition(condition.field, range=edge.RangeFloat(gte=condition.low, lte=condition.high))


def _uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _point(record: edge.Record) -> FramePoint:
    vector = normalized(np.asarray(record.vector, dtype=np.float32))
    return FramePoint(_uuid(record.id), vector, FramePayload.model_validate(record.payload))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
