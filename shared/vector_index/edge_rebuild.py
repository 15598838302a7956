"""A collection tidied beside its searches: copied, optimised by another process, brought up to date, put in place.

The engine's `optimize` holds the GIL, for the better part of a minute with 100,000 points, so no process that
answers searches may call it. Here the copy alone is optimised, while the shard goes on and notes what changes.

copy ─▶ (another process) optimise ─▶ catch up with what changed ─▶ shard out, copy in, both by a rename
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from shared.vector_index.edge_folder import copy_tree, sync_folder, sync_tree
from shared.vector_index.edge_shard import close_shard, compile_filter, load_shard, point_of, upsert_operation
from shared.vector_index.port import Filter

_DRAFT: Final = "shard.draft-"
_OLD: Final = "shard.old"
_NICENESS: Final = 10
# The engine drops removed points from a segment of at least 1,000 once they are a fifth of it.
_REMOVED_SHARE: Final = 0.2
_REMOVED_AT_LEAST: Final = 1000
_PR_SET_PDEATHSIG: Final = 1


def recover(folder: Path) -> None:
    """Undo what a kill left half done in a collection's folder: at most one rename, and drafts."""
    shard, old = folder / "shard", folder / _OLD
    if old.exists() and not shard.exists():
        old.rename(shard)
        sync_folder(folder)
    for leftover in (old, *folder.glob(f"{_DRAFT}*")):
        shutil.rmtree(leftover, ignore_errors=True)


def flat_points_of(info: edge.ShardInfo) -> int:
    """How many points no graph holds."""
    return max(0, info.points_count - info.indexed_vectors_count)


@dataclass(slots=True)
class Wear:
    """What a collection went through since its last rebuild, and so whether the next one is due."""

    flat_below: int
    written: int = 0
    removed: int = 0
    left_flat: int = 0
    """Points that the last rebuild left without a graph: they must not ask for the next one."""

    def begin(self) -> None:
        """A rebuild begins: it takes in what was written so far."""
        self.written = self.removed = 0

    def end(self, *, flat: int) -> None:
        """It ended, and left so many points without a graph."""
        self.left_flat = flat if flat >= self.flat_below else 0

    def is_due(self, info: edge.ShardInfo) -> bool:
        """Whether a graph is due, or points that were removed or replaced are many."""
        removed = self.removed + (self.written if info.indexed_vectors_count else 0)
        return flat_points_of(info) - self.left_flat >= self.flat_below or removed >= max(
            _REMOVED_AT_LEAST, _REMOVED_SHARE * info.points_count
        )


@dataclass(slots=True)
class Changes:
    """What was written to a shard since its copy was made. Deletes come first, then the ids as they are by now.

    This order is right whatever the order of the writes was: an id that was written is taken from the shard at the
    end, and a point that was not written is the same in both, so a filter meets it in both or in neither.
    """

    ids: set[UUID] = field(default_factory=set)
    deleted: list[Filter] = field(default_factory=list)


class Rebuild:
    """One copy under way, in `draft`."""

    def __init__(self, shard_dir: Path, config: edge.EdgeConfig) -> None:
        """Copy a flushed shard that nobody writes to meanwhile.

        Raises:
            OSError: the disk is full or fails.
        """
        self._shard_dir = shard_dir
        self._config = config
        self.draft = shard_dir.with_name(f"{_DRAFT}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.changes = Changes()
        self._copy: edge.EdgeShard | None = None
        try:
            copy_tree(shard_dir, self.draft)
        except OSError:
            self.discard()
            raise

    def catch_up(self, shard: edge.EdgeShard, *, at_most: int) -> int:
        """Bring the copy up to `at_most` changed points nearer to `shard`; how many are left."""
        if self._copy is None:
            self._copy = load_shard(self.draft, self._config)
        copy = self._copy
        while self.changes.deleted:
            copy.update(edge.UpdateOperation.delete_points_by_filter(compile_filter(self.changes.deleted[0])))
            del self.changes.deleted[0]
        ids = [*self.changes.ids][:at_most]
        if ids:
            points = [point_of(record) for record in shard.retrieve([*ids], True, True)]
            if gone := set(ids) - {point.id for point in points}:
                copy.update(edge.UpdateOperation.delete_points([*gone]))
            if points:
                copy.update(upsert_operation(points, np.stack([point.vector for point in points])))
            self.changes.ids.difference_update(ids)
        return len(self.changes.ids)

    def close_copy(self) -> None:
        """Make the copy last, so that it can be put in place."""
        if self._copy is not None:
            self._copy.flush()
            self._copy.close()
            self._copy = None
        # The builder made its files last, and the flush those that it touched; this is for their names.
        for folder in (self.draft, *(path for path in self.draft.rglob("*") if path.is_dir())):
            sync_folder(folder)

    def put_in_place(self) -> None:
        """Exchange the shard, flushed and closed, for the copy. A kill in between is mended by `recover`.

        The old shard is left for `drop_old`, since it takes a while to remove.
        """
        old = self._shard_dir.with_name(_OLD)
        shutil.rmtree(old, ignore_errors=True)
        self._shard_dir.rename(old)
        try:
            self.draft.rename(self._shard_dir)
        except OSError:
            old.rename(self._shard_dir)
            raise
        sync_folder(self._shard_dir.parent)

    def discard(self) -> None:
        """Drop the copy."""
        if self._copy is not None:
            close_shard(self._copy)
            self._copy = None
        shutil.rmtree(self.draft, ignore_errors=True)


def drop_old(folder: Path) -> None:
    """Remove the shard that a rebuild put out of its place; touches no engine."""
    shutil.rmtree(folder / _OLD, ignore_errors=True)


def build_command(draft: Path) -> list[str]:
    """The command of the process that optimises a copy: this module with the copy's folder."""
    return [sys.executable, "-m", "shared.vector_index.edge_rebuild", str(draft)]


def _build(draft: Path) -> None:
    # Ends with the owner: a new one would make its own copy.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICENESS)
    shard = edge.EdgeShard.load(str(draft))
    shard.optimize()
    shard.flush()
    shard.close()
    sync_tree(draft)


if __name__ == "__main__":
    _build(Path(sys.argv[1]))
