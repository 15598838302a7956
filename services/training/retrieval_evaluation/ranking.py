"""The nearest of each query, by the query service's rules: studies by their best frame, or frames by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.dataset.cases import DatasetError
from services.training.retrieval_evaluation.studies import Ints, Studies
from shared.vision.retrieval_report import Disjoint, Level

NEAREST: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Q queries and what is nearest to them.

    Attributes:
        classes: (Q,) of the queries.
        nearest: (Q, 10) studies, or frames, of the gallery, the nearest first.
        found: (Q, 10) their classes.
        relevant: (Q,) how many in the gallery are of the query's class.
        allowed: (Q, G) which studies, or frames, could have been found.
        gallery: (G,) their classes.
    """

    classes: Ints
    nearest: Ints
    found: Ints
    relevant: Ints
    allowed: NDArray[np.bool_]
    gallery: Ints

    @property
    def chance(self) -> float:
        """The mean share of the gallery that is of the query's class: P@k of a random order, for every k."""
        return float((self.relevant / self.allowed.sum(axis=1)).mean())


def allowed_pairs(queries: Studies, gallery: Studies, disjoint: Disjoint) -> NDArray[np.bool_]:
    """(Q, G) which studies a query may find: never one of its own patient, nor, source-disjoint, of its own source."""
    allowed: NDArray[np.bool_] = queries.patients[:, None] != gallery.patients[None, :]
    if disjoint == "source":
        allowed &= queries.sources[:, None] != gallery.sources[None, :]
    return allowed


def rank(queries: Studies, gallery: Studies, space: str, *, disjoint: Disjoint, level: Level) -> Ranked:
    """The ten nearest of each query.

    Raises:
        DatasetError: a query has fewer than ten to choose from.
    """
    allowed = allowed_pairs(queries, gallery, disjoint)
    if level == "study":
        likeness = queries.starts[space] @ gallery.vectors[space].T
        begins = np.flatnonzero(np.diff(gallery.study, prepend=-1))
        likeness = np.maximum.reduceat(likeness, begins, axis=1)
        return rank_by(likeness, allowed, queries.classes, gallery.classes)
    likeness = queries.vectors[space][queries.strongest] @ gallery.vectors[space].T
    return rank_by(likeness, allowed[:, gallery.study], queries.frame_classes[queries.strongest], gallery.frame_classes)


def rank_by(likeness: NDArray[np.floating], allowed: NDArray[np.bool_], classes: Ints, gallery: Ints) -> Ranked:
    """The ten of each row of `likeness` (Q, G) that are largest among the `allowed`.

    Raises:
        DatasetError: a query has fewer than ten to choose from.
    """
    if (fewest := int(allowed.sum(axis=1).min(initial=NEAREST))) < NEAREST:
        raise DatasetError(f"a query has {fewest} others to choose from, {NEAREST} are needed: take more studies")
    nearest = np.argsort(np.where(allowed, -likeness, np.inf), axis=1, kind="stable")[:, :NEAREST]
    relevant = (allowed & (gallery[None, :] == classes[:, None])).sum(axis=1)
    return Ranked(classes, nearest, gallery[nearest], relevant, allowed, gallery)
