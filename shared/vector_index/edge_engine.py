"""Qdrant Edge, the embedded engine: one collection in one folder, owned by one process.

It is meant to be driven by `edge_server` in a process of its own: the engine holds the GIL during
every call, does not survive a fork, and a second opener of its files makes the first one's flushes fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

import qdrant_edge as edge

from shared.errors import ConfigurationError, IndexUnavailableError
from shared.vector_index.edge_folder import FolderLock, copy_tree
from shared.vector_index.edge_rebuild import Rebuild, Wear, flat_points_of, recover
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.edge_shard import (
    STUDY_ONLY,
    StudyHit,
    close_shard,
    compile_filter,
    create_shard,
    hit_of,
    load_shard,
    point_of,
    search_params,
    shard_config,
    stored_dim,
    study_hit_of,
    study_hits_of,
    upsert_operation,
    uuid_of,
    wanted_dim,
)
from shared.vector_index.filters import is_empty, require_keyword
from shared.vector_index.port import Embedding, Field, Filter, FramePoint, Hit
from shared.vector_index.studies import best_of_each_study
from shared.vector_index.vectors import checked, checked_points

T = TypeVar("T")

_LAST_ID: Final = UUID(int=2**128 - 1)
_EVERY_VALUE: Final = 2**31
_CATCH_UP_POINTS: Final = 1000


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
        self.folder = folder
        self._shard_dir = folder / "shard"
        self._guard = threading.RLock()
        self._shard: edge.EdgeShard | None = None
        self._rebuild: Rebuild | None = None
        self._wear = Wear(settings.flat_below_points)
        self._params = search_params(settings)
        self._lock = FolderLock(folder)
        try:
            recover(folder)
            stored = stored_dim(self._shard_dir)
            self.dim = stored or wanted_dim(folder, dim)
            self.require_dim(dim)
            self._config = shard_config(self.dim, settings)
            if stored is None:
                create_shard(self._shard_dir, self._config)
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

    def insert(self, points: Sequence[FramePoint]) -> None:
        self.apply(points, only_new=True)
        self.flush()

    def apply(self, points: Sequence[FramePoint], *, only_new: bool = False) -> None:
        """Store `points` without waiting for the disk; `flush` makes them last."""
        if only_new:
            points = [*{point.id: point for point in reversed(points)}.values()]
        rows = checked_points(points, self.dim)
        if not points:
            return
        operation = upsert_operation(points, rows, only_new=only_new)
        with self._guard:
            if self._rebuild is not None:
                self._rebuild.changes.ids.update(point.id for point in points)
            self._run(lambda shard: shard.update(operation))
            self._wear.written += len(points)

    def flush(self) -> None:
        """Write everything to the disk."""
        self._run(lambda shard: shard.flush())

    def search(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        return [hit_of(found) for found in self._nearest(vector, limit=limit, where=where, payload=True)]

    def search_studies(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        def fetch(narrowed: Filter, count: int) -> list[StudyHit]:
            return [*map(study_hit_of, self._nearest(vector, limit=count, where=narrowed, payload=STUDY_ONLY))]

        with self._guard:
            best = best_of_each_study(fetch, limit=limit, where=where)
            ids = [uuid_of(one.found.id) for one in best]
            records = self._run(lambda shard: shard.retrieve([*ids], True, False)) if ids else []
        return study_hits_of(best, records)

    def retrieve(self, ids: Sequence[UUID]) -> list[FramePoint]:
        wanted: list[int | UUID | str] = [*dict.fromkeys(ids)]
        records = self._run(lambda shard: shard.retrieve(wanted, True, True)) if wanted else []
        found = {point.id: point for point in map(point_of, records)}
        return [found[key] for key in ids if key in found]

    def scroll(self, *, limit: int, where: Filter = Filter(), after: UUID | None = None) -> list[FramePoint]:
        if limit < 1 or after == _LAST_ID:
            return []
        request = edge.ScrollRequest(
            offset=None if after is None else UUID(int=after.int + 1),
            limit=limit,
            filter=compile_filter(where),
            with_payload=True,
            with_vector=True,
        )
        records, _ = self._run(lambda shard: shard.scroll(request))
        return [point_of(record) for record in records]

    def count(self, where: Filter = Filter()) -> int:
        return self._run(lambda shard: shard.count(edge.CountRequest(exact=True, filter=compile_filter(where))))

    def facet(self, field: Field, where: Filter = Filter()) -> dict[str, int]:
        require_keyword(field)
        request = edge.FacetRequest(field, limit=_EVERY_VALUE, exact=True, filter=compile_filter(where))
        return {str(hit.value): hit.count for hit in self._run(lambda shard: shard.facet(request)).hits}

    def delete(self, where: Filter) -> None:
        if is_empty(where):
            raise ValueError("an empty filter would delete everything")
        compiled = compile_filter(where)
        with self._guard:
            if self._rebuild is not None:
                self._rebuild.changes.deleted.append(where)
            self._wear.removed += self.count(where)
            self._run(lambda shard: shard.update(edge.UpdateOperation.delete_points_by_filter(compiled)))
            self.flush()

    def flat_points(self) -> int:
        """How many points no graph holds yet: a search compares itself with each of them."""
        return self._run(lambda shard: flat_points_of(shard.info()))

    def is_rebuild_due(self) -> bool:
        """Whether a graph is due, or removed points are many."""
        return self._run(lambda shard: self._wear.is_due(shard.info()))

    def begin_rebuild(self) -> Path:
        """Copy the shard and note every change from now on; the copy's folder, for `edge_rebuild` to optimise.

        Raises:
            IndexUnavailableError: the disk is full or fails.
        """
        with self._guard:
            self.flush()
            try:
                self._rebuild = Rebuild(self._shard_dir, self._config)
            except OSError as error:
                raise IndexUnavailableError(f"the collection could not be copied: {error}") from error
            self._wear.begin()
            return self._rebuild.draft

    def catch_up(self, *, at_most: int) -> int:
        """Bring the copy up to `at_most` changed points nearer; how many are left.

        Raises:
            IndexUnavailableError: the engine failed; the rebuild is given up.
        """
        with self._guard:
            rebuild = self._under_way()
            try:
                return self._run(lambda shard: rebuild.catch_up(shard, at_most=at_most))
            except IndexUnavailableError:
                self.abandon_rebuild()
                raise

    def finish_rebuild(self) -> None:
        """Catch up with what is left and put the copy in the shard's place, at once; `edge_rebuild.drop_old` follows.

        Raises:
            IndexUnavailableError: it failed; the collection is as it was.
        """
        with self._guard:
            rebuild = self._under_way()
            while self.catch_up(at_most=_CATCH_UP_POINTS) or rebuild.changes.deleted:
                pass
            self.flush()
            try:
                rebuild.close_copy()
                self._discard()
                rebuild.put_in_place()
                self._rebuild = None
                self._wear.end(flat=self.flat_points())
            except Exception as error:
                self.abandon_rebuild()
                raise IndexUnavailableError(f"the tidied copy could not be put in place: {error}") from error

    def abandon_rebuild(self) -> None:
        """Drop the copy, if there is one."""
        with self._guard:
            rebuild, self._rebuild = self._rebuild, None
            if rebuild is not None:
                rebuild.discard()

    def optimize(self) -> bool:
        """Build graphs and drop deleted points in place, for up to minutes; says whether anything was done."""
        return self._run(lambda shard: shard.optimize())

    def copy_to(self, folder: Path) -> int:
        """Copy the collection, flushed, to a new folder that `EdgeEngine` can open; how many points it holds.

        Raises:
            IndexUnavailableError: the disk is full or fails.
        """
        with self._guard:
            self.flush()
            try:
                copy_tree(self._shard_dir, folder / "shard")
            except OSError as error:
                raise IndexUnavailableError(f"the collection could not be copied: {error}") from error
            return self.count()

    def close(self) -> None:
        with self._guard:
            self.abandon_rebuild()
            try:
                if self._shard is not None:
                    self.flush()
            finally:
                self._discard()
                self._lock.release()

    def _nearest(
        self, vector: Embedding, *, limit: int, where: Filter, payload: bool | list[str]
    ) -> list[edge.ScoredPoint]:
        row = checked(vector, self.dim)
        if limit < 1:
            return []
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(row.tolist()),
            filter=compile_filter(where),
            with_payload=payload,
            params=self._params,
        )
        return self._run(lambda shard: shard.query(request))

    def _under_way(self) -> Rebuild:
        if self._rebuild is None:
            raise IndexUnavailableError("no rebuild is under way")
        return self._rebuild

    def _run(self, work: Callable[[edge.EdgeShard], T]) -> T:
        with self._guard:
            try:
                if self._shard is None:
                    self._shard = load_shard(self._shard_dir, self._config)
                return work(self._shard)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # The engine raises plain Exception, and panics of its Rust code are no Exception at all.
                self._discard()
                raise IndexUnavailableError(f"the embedded engine failed: {error}") from error

    def _discard(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            close_shard(shard)
