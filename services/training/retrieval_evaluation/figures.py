"""Figures of a ranking: one value for each query, so that a bootstrap can draw queries."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.measures.scores import Floats
from services.training.retrieval_evaluation.ranking import Ranked
from services.training.retrieval_evaluation.studies import NO_LABEL, Ints

DEPTHS: Final = (1, 3, 5, 10)
MAP, MMV = "mAP@5", "MMV@5"
NAMES: Final = (*(f"P@{k}" for k in DEPTHS), MAP, MMV)
_AT: Final = 5
_RANDOM_ORDERS: Final = 50


def query_figures(ranked: Ranked) -> dict[str, Floats]:
    """By name, (Q,) figures in 0 to 1."""
    hits = ranked.found == ranked.classes[:, None]
    figures = {f"P@{k}": hits[:, :k].mean(axis=1) for k in DEPTHS}
    figures[MAP] = average_precision(hits[:, :_AT], ranked.relevant)
    figures[MMV] = (winners(ranked.found[:, :_AT])[0] == ranked.classes).astype(np.float64)
    return figures


def average_precision(hits: NDArray[np.bool_], relevant: Ints) -> Floats:
    """(Q,) precisions at the ranks of the hits, summed and divided by the most hits that were possible.

    With as many ranks as the gallery has members it is the average precision of information retrieval.

    Args:
        hits: (Q, k) whether each of the nearest is of the query's class.
        relevant: (Q,) how many of the gallery are.
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    precisions = np.cumsum(hits, axis=1) / ranks
    possible = np.minimum(relevant, hits.shape[1])
    areas: Floats = (precisions * hits).sum(axis=1) / np.maximum(possible, 1)
    return areas


def winners(votes: Ints) -> tuple[Ints, Floats]:
    """(Q,) the label with the most votes of each row, `NO_LABEL` on a tie or without a vote; (Q,) its share of votes.

    Args:
        votes: (Q, k) labels; `NO_LABEL` is no vote.
    """
    found = [_winner(row) for row in votes.tolist()]
    return np.array([label for label, _ in found], np.int64), np.array([share for _, share in found])


def random_figures(ranked: Ranked, seed: int) -> dict[str, float]:
    """The micro means of `query_figures` over random orders of what each query may find."""
    rng = np.random.default_rng(seed)
    width = ranked.found.shape[1]
    totals: Counter[str] = Counter()
    for _ in range(_RANDOM_ORDERS):
        order = np.where(ranked.allowed, rng.random(ranked.allowed.shape), np.inf)
        nearest = np.argsort(order, axis=1)[:, :width]
        drawn = Ranked(
            ranked.classes, nearest, ranked.gallery[nearest], ranked.relevant, ranked.allowed, ranked.gallery
        )
        totals.update({name: float(values.mean()) for name, values in query_figures(drawn).items()})
    return {name: total / _RANDOM_ORDERS for name, total in totals.items()}


def _winner(row: list[int]) -> tuple[int, float]:
    counted = Counter(label for label in row if label != NO_LABEL).most_common(2)
    if not counted or (len(counted) > 1 and counted[0][1] == counted[1][1]):
        return NO_LABEL, 0.0
    return counted[0][0], counted[0][1] / sum(label != NO_LABEL for label in row)
