"""What the neighbours' vote is worth, and whether the nearest are alike in the class or in the source."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from services.training.measures.bootstrap import bootstrap
from services.training.measures.scores import Ints as Rows
from services.training.retrieval_evaluation.figures import winners
from services.training.retrieval_evaluation.ranking import Ranked
from services.training.retrieval_evaluation.studies import NO_LABEL, Ints, Studies
from shared.vision.retrieval_report import Interval, Likeness, ShortcutAudit, VoteBin

EDGES: Final = (0.0, 0.4, 0.6, 0.8, 0.95, 1.0)
"""Of the winning label's share; the last bin is that of the unanimous."""
AUDITED_AT: Final = (1, 5)


def vote_bins(ranked: Ranked, labels: Ints) -> tuple[tuple[VoteBin, ...], int]:
    """The bins that have a query, and how many queries have no winning label.

    Args:
        ranked: Studies among studies.
        labels: (G,) what the index says of each study of the gallery; `NO_LABEL` does not vote.
    """
    winner, share = winners(labels[ranked.nearest])
    found = []
    for low, high in pairwise(EDGES):
        chosen = (winner != NO_LABEL) & (share > low) & (share <= high)
        if count := int(chosen.sum()):
            right = int((winner[chosen] == ranked.classes[chosen]).sum())
            ends = binomtest(right, count).proportion_ci(method="wilson")
            found.append(
                VoteBin(
                    share_from=low,
                    share_to=high,
                    right=round(right / count, 4),
                    studies=count,
                    low=round(float(ends.low), 4),
                    high=round(float(ends.high), 4),
                )
            )
    return tuple(found), int((winner == NO_LABEL).sum())


def shortcut_audits(
    ranked: Ranked, queries: Studies, gallery: Studies, *, draws: int, seed: int
) -> tuple[ShortcutAudit, ...]:
    """One for each depth; empty where sources are not known or are all the same."""
    if (gallery.sources == "").any() or len(np.unique(gallery.sources)) < 2:
        return ()
    same_class = queries.classes[:, None] == gallery.classes[None, :]
    same_source = queries.sources[:, None] == gallery.sources[None, :]
    kinds = {
        "same_class": same_class,
        "same_source": same_source,
        "same_class_other_source": same_class & ~same_source,
        "other_class_same_source": ~same_class & same_source,
    }
    return tuple(
        ShortcutAudit(
            at=at,
            **{name: _likeness(ranked, alike, at, queries.patients, draws, seed) for name, alike in kinds.items()},
        )
        for at in AUDITED_AT
    )


def _likeness(
    ranked: Ranked, alike: NDArray[np.bool_], at: int, patients: NDArray[np.str_], draws: int, seed: int
) -> Likeness:
    shares = np.take_along_axis(alike, ranked.nearest[:, :at], axis=1).mean(axis=1)
    by_chance = (alike & ranked.allowed).sum(axis=1) / ranked.allowed.sum(axis=1)

    def mean(rows: Rows) -> dict[str, float]:
        return {"share": float(shares[rows].mean())}

    estimate = bootstrap(mean, patients, draws=draws, seed=seed)["share"]
    if estimate is None:
        raise ValueError("no query to audit")
    return Likeness(found=Interval(**estimate.model_dump()), chance=round(float(by_chance.mean()), 4))
