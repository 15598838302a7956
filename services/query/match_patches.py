"""Which regions of two frames correspond: mutual nearest patch tokens, grouped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.vector_index.port import Region
from shared.vision.patch_grid import PatchGrid

REACH: Final = 2
"""Patches that a region reaches from its best pair, at most, to each side."""

STRENGTH: Final = 0.8
"""A pair joins a region only if it is at least this share as similar as the best pair. A plain choice, not fitted."""

METHOD: Final = (
    "mutual nearest patch tokens by cosine similarity, dark even background and letterbox left out, "
    "grouped around the best pairs"
)


@dataclass(frozen=True, slots=True)
class Match:
    """A region of either frame; `score` is the mean cosine similarity of its pairs."""

    query: Region
    neighbour: Region
    score: float


@dataclass(frozen=True, slots=True)
class Patches:
    """One frame's patch tokens (P, D), where they lie, and which of them show something (P,)."""

    tokens: NDArray[np.float32]
    grid: PatchGrid
    shown: NDArray[np.bool_]


def match_patches(query: Patches, neighbour: Patches, *, most: int) -> list[Match]:
    """At most `most` pairs of regions, best first; the same frames give the same pairs."""
    pairs, scores = _mutual(query, neighbour)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -scores))
    left = [int(place) for place in order]
    found: list[Match] = []
    while left and len(found) < most:
        seed = pairs[left[0]]
        group = [
            place
            for place in left
            if scores[place] >= STRENGTH * scores[left[0]]
            and _near(pairs[place], seed, query.grid.side, neighbour.grid.side)
        ]
        group = group or left[:1]  # similarity below zero: the best pair alone
        members = pairs[group]
        found.append(
            Match(query.grid.box(members[:, 0]), neighbour.grid.box(members[:, 1]), float(scores[group].mean()))
        )
        taken = set(group)
        left = [place for place in left if place not in taken]
    return sorted(found, key=lambda match: -match.score)


def _mutual(query: Patches, neighbour: Patches) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(M, 2) patches that are each other's nearest, and (M,) their cosine similarity."""
    ours, theirs = np.flatnonzero(query.shown), np.flatnonzero(neighbour.shown)
    if not ours.size or not theirs.size:
        return np.empty((0, 2), np.intp), np.empty(0)
    similar = _unit(query.tokens[ours]) @ _unit(neighbour.tokens[theirs]).T
    best, back = similar.argmax(axis=1), similar.argmax(axis=0)
    mutual = np.flatnonzero(back[best] == np.arange(len(ours)))
    pairs = np.stack([ours[mutual], theirs[best[mutual]]], axis=1)
    return pairs, np.clip(similar[mutual, best[mutual]], -1.0, 1.0)


def _near(pair: NDArray[np.intp], seed: NDArray[np.intp], ours: int, theirs: int) -> bool:
    for cell, middle, side in ((pair[0], seed[0], ours), (pair[1], seed[1], theirs)):
        if max(abs(cell // side - middle // side), abs(cell % side - middle % side)) > REACH:
            return False
    return True


def _unit(tokens: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = tokens.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit
