"""The pictures of an evaluation on one page: ROC, confusion, reliability, selective risk, distances.

The same numbers always give the same file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.training.card.figures import roc_points
from services.training.evaluation.judged import Judged
from services.training.measures.bootstrap import exact_share
from services.training.measures.scores import confusion_matrix, reliability, risk_coverage

# Okabe and Ito's colours, told apart by most colour-blind people.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
_DOTS_PER_INCH: Final = 90
_LEAST_COVERAGE: Final = 0.1  # the risk of fewer answers is that of a handful


def evaluation_page(
    sets: Mapping[str, Judged],
    *,
    title: str,
    abstain_below: float,
    ood_limit: float | None,
    strange: Mapping[str, float] | None = None,
) -> bytes:
    """PNG bytes.

    Args:
        sets: By title; ROC, confusion and reliability are of the first, selective risk and distances of all.
        title: Stands above.
        abstain_below: The operating point, marked on the selective-risk curves.
        ood_limit: Marked among the distances; None: they are not drawn.
        strange: Median distance of each kind of strange image.
    """
    first_title, first = next(iter(sets.items()))
    figure = Figure(figsize=(13, 9), dpi=_DOTS_PER_INCH, layout="constrained")  # no pyplot: it keeps state
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))  # its stub knows one part only
    above, below = parts
    above.suptitle(f"{first_title}, {len(first.classes)} studies", fontsize=11)
    roc, confusion, calibration = above.subplots(1, 3)
    _draw_roc(roc, first)
    _draw_confusion(confusion, first)
    _draw_reliability(calibration, first)
    below.suptitle("All sets", fontsize=11)
    risk, distances = below.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_risk(risk, sets, abstain_below)
    _draw_distances(distances, sets, strange or {}, ood_limit)
    figure.suptitle(f"{title}: research use only; results on phantoms are phantom results", fontsize=12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_roc(axes: Any, judged: Judged) -> None:
    for index, label in enumerate(judged.labels):
        false, true = roc_points(judged.probabilities[:, index], judged.classes == index)
        axes.step(false, true, where="post", color=_COLOURS[index % len(_COLOURS)], label=label, linewidth=1.6)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, each class against the rest")
    axes.legend(loc="lower right", frameon=False, fontsize=9)


def _draw_confusion(axes: Any, judged: Judged) -> None:
    counts = confusion_matrix(judged.probabilities.argmax(axis=1), judged.classes, len(judged.labels))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(range(len(judged.labels)), judged.labels, rotation=20, ha="right", fontsize=9)
    axes.set_yticks(range(len(judged.labels)), judged.labels, fontsize=9)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion, studies")


def _draw_reliability(axes: Any, judged: Judged) -> None:
    """Bins of the top probability with exact 95 % intervals, each with its number of studies at the bottom."""
    top = judged.probabilities.max(axis=1)
    bins = reliability(top, judged.probabilities.argmax(axis=1) == judged.classes)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for one in bins:
        share = exact_share(round(one.accuracy * one.count), one.count)
        axes.plot([one.confidence] * 2, [share.low, share.high], color=_COLOURS[0], linewidth=1.2)
        axes.plot([one.confidence], [one.accuracy], marker="o", markersize=5, color=_COLOURS[0])
        axes.text((one.low + one.high) / 2, -0.05, str(one.count), ha="center", va="center", fontsize=8)
    axes.text(0.02, -0.05, "studies:", va="center", fontsize=8)
    axes.set(xlim=(0, 1.02), ylim=(-0.1, 1.03), xlabel="confidence", ylabel="share that is right")
    axes.set_title("Reliability, 95 % intervals")


def _draw_risk(axes: Any, sets: Mapping[str, Judged], abstain_below: float) -> None:
    highest = 0.0
    for index, (name, judged) in enumerate(sets.items()):
        top = judged.probabilities.max(axis=1)
        curve = risk_coverage(top, judged.probabilities.argmax(axis=1) == judged.classes)
        colour, shown = _COLOURS[index % len(_COLOURS)], curve.coverage >= _LEAST_COVERAGE
        axes.plot(curve.coverage[shown], curve.risk[shown], color=colour, linewidth=1.5, label=name)
        highest = max(highest, float(curve.risk[shown].max(initial=0.0)))
        answered = float((top >= abstain_below).mean())
        if answered >= _LEAST_COVERAGE:
            axes.plot([answered], [curve.at(answered)], marker="o", color=colour, markersize=6)
    # Room above the curves for the legend.
    axes.set(xlim=(0, 1.02), ylim=(-0.01, max(0.1, highest) * (1.15 + 0.09 * len(sets))))
    axes.set(xlabel="coverage: share of studies answered", ylabel="share of wrong answers")
    axes.set_title("Selective risk; dot: the operating point")
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_distances(axes: Any, sets: Mapping[str, Judged], strange: Mapping[str, float], limit: float | None) -> None:
    """A row for each set of the task's own kind, every study a stroke; below, the median of each strange kind."""
    known = {name: judged.distances for name, judged in sets.items() if judged.distances is not None}
    if not known or limit is None:
        axes.axis("off")
        return
    names = [*known, *strange]
    for row, each in enumerate(known.values()):
        colour = _COLOURS[row % len(_COLOURS)]
        axes.plot(each, np.full(len(each), row), "|", color=colour, markersize=9, markeredgewidth=0.8)
    rows = np.arange(len(known), len(names))
    axes.plot(list(strange.values()), rows, "D", color="black", markersize=5)
    axes.axvline(limit, color="black", linewidth=1.0, linestyle="--")
    axes.axhline(len(known) - 0.5, color="#bbbbbb", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set(xlabel="distance (right of the dashed limit: called out of distribution)")
    axes.set_title("Stroke: a study of its own kind. Diamond: median of a strange kind", fontsize=11)
