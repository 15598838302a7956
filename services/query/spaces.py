"""What may be searched beside the backbone's frames: means, regions, and each task's own space."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.query.problems import Problem
from shared.vector_index import Level, collection_name, space_collection_name
from shared.vector_index.port import Aliases, VectorIndex
from shared.vision.retrieval_report import VISUAL, RetrievalReport

RECHECK_S: Final = 5.0
"""A collection that was not there is looked for again after this."""

Open = Callable[[str, int], VectorIndex]
"""The index of a collection of vectors of a length."""


class SpaceHead(Protocol):
    """The part of a task's head that makes its space."""

    @property
    def id(self) -> str:
        """The head's id."""

    @property
    def space_dim(self) -> int | None:
        """K, the length of a vector in the task's space; None: it has none."""

    def project(self, cls: NDArray[np.floating]) -> NDArray[np.floating] | None:
        """(N, K) vectors of L2 norm 1 of (N, D) class tokens; None: it has no space."""


@dataclass(frozen=True, slots=True)
class Space:
    """A task's own space, and what was measured of the searches in it and in the visual space."""

    name: str
    title: str
    head: SpaceHead
    report: RetrievalReport | None = None


@dataclass(slots=True)
class Collections:
    """The collections of one backbone, opened when first asked for. Safe from several threads; may block."""

    backbone_id: str
    dim: int
    frames: VectorIndex
    open: Open | None = None
    aliases: Aliases | None = None
    spaces: Mapping[str, Space] = field(default_factory=dict)
    _opened: dict[str, VectorIndex] = field(default_factory=dict)
    _known: tuple[float, frozenset[str]] = (-RECHECK_S, frozenset())
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, space: str, level: Level) -> VectorIndex:
        """The collection of a space at a level.

        Raises:
            Problem: 404, there is none.
            IndexUnavailableError: the index did not answer in time.
        """
        if space == VISUAL:
            if level == "frames":
                return self.frames
            return self._there(collection_name(self.backbone_id, level), self.dim)
        found = self.spaces.get(space)
        if found is None or level != "frames" or found.head.space_dim is None:
            raise no_such_space()
        return self._there(space_collection_name(found.head.id), found.head.space_dim)

    def has_regions(self) -> bool:
        """Whether regions of frames are indexed. May block.

        Raises:
            IndexUnavailableError: the index did not answer in time.
        """
        try:
            self.find(VISUAL, "regions")
        except Problem:
            return False
        return True

    def close(self) -> None:
        """Release what was opened, the frames too."""
        for index in (self.frames, *self._opened.values()):
            index.close()
        if self.aliases is not None:
            self.aliases.close()

    def _there(self, name: str, dim: int) -> VectorIndex:
        with self._lock:
            if name in self._opened:
                return self._opened[name]
            if self.open is None or self.aliases is None:
                raise no_such_space()
            asked, known = self._known
            if name not in known and time.monotonic() - asked >= RECHECK_S:
                known = frozenset(self.aliases.collections())
                self._known = (time.monotonic(), known)
            if name not in known:  # opening it would make it
                raise no_such_space()
            return self._opened.setdefault(name, self.open(name, dim))


def no_such_space() -> Problem:
    """The answer to a space, a level, or regions that are not indexed."""
    return Problem(404, "no-such-space", "Nothing is indexed in this space at this level. See `spaces` in /v1/info.")
