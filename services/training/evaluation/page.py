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
from services.training.measures.scores import confusion_matrix, reliability, risk_coverage

# Okabe and Ito's colours, told apart by most colour-blind people.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
_DOTS_PER_INCH: Final = 80


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
        sets: By title; ROC, confusion and reliability are of the first, selective risk of all.
        title: Stands above.
        abstain_below: The operating point, marked on the selective-risk curve of the first set.
        ood_limit: Marked among the distances; None: they are not drawn.
        strange: Median distance of each kind of strange image.
    """
    first = next(iter(sets.values()))
    figure = Figure(figsize=(12, 7), dpi=_DOTS_PER_INCH, layout="constrained")  # no pyplot: it keeps state
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 3)
    _draw_roc(grid[0, 0], first)
    _draw_confusion(grid[0, 1], first)
    _draw_reliability(grid[0, 2], first)
    _draw_risk(grid[1, 0], sets, abstain_below)
    _draw_distances(grid[1, 1], sets, ood_limit)
    _draw_strange(grid[1, 2], strange or {}, ood_limit)
    figure.suptitle(f"{title}: phantom and research results; research use only", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_roc(axes: Any, judged: Judged) -> None:
    for index, label in enumerate(judged.labels):
        false, true = roc_points(judged.probabilities[:, index], judged.classes == index)
        axes.step(false, true, where="post", color=_COLOURS[index % len(_COLOURS)], label=label, linewidth=1.4)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, each class against the rest")
    axes.legend(loc="lower right", frameon=False, fontsize=8)


def _draw_confusion(axes: Any, judged: Judged) -> None:
    counts = confusion_matrix(judged.probabilities.argmax(axis=1), judged.classes, len(judged.labels))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(judged.labels)), judged.labels, rotation=20, ha="right", fontsize=8)
    axes.set_yticks(range(len(judged.labels)), judged.labels, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion")


def _draw_reliability(axes: Any, judged: Judged) -> None:
    top = judged.probabilities.max(axis=1)
    bins = reliability(top, judged.probabilities.argmax(axis=1) == judged.classes)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    confidence, accuracy = [one.confidence for one in bins], [one.accuracy for one in bins]
    axes.plot(confidence, accuracy, color=_COLOURS[0], linewidth=1.2)
    axes.scatter(confidence, accuracy, s=[10 + 200 * one.count / len(top) for one in bins], color=_COLOURS[0])
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share that is right", title="Reliability")


def _draw_risk(axes: Any, sets: Mapping[str, Judged], abstain_below: float) -> None:
    for index, (name, judged) in enumerate(sets.items()):
        top = judged.probabilities.max(axis=1)
        curve = risk_coverage(top, judged.probabilities.argmax(axis=1) == judged.classes)
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(curve.coverage, curve.risk, color=colour, linewidth=1.3, label=name)
        answered = float((top >= abstain_below).mean())
        if answered > 0:
            axes.plot([answered], [curve.at(answered)], marker="o", color=colour, markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="coverage", ylabel="share of wrong answers")
    axes.set_title("Selective risk (dot: the operating point)")
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def _draw_distances(axes: Any, sets: Mapping[str, Judged], limit: float | None) -> None:
    known = {name: judged.distances for name, judged in sets.items() if judged.distances is not None}
    if not known or limit is None:
        axes.axis("off")
        return
    top = max(limit * 1.05, *(float(each.max()) for each in known.values()))
    edges = np.linspace(min(float(each.min()) for each in known.values()), top, 30)
    for index, (name, each) in enumerate(known.items()):
        axes.hist(each, bins=edges, histtype="step", color=_COLOURS[index % len(_COLOURS)], label=name, density=True)
    axes.axvline(limit, color="black", linewidth=0.9, linestyle="--")
    axes.set(xlabel="distance (dashed: the limit)", ylabel="density", title="Distance of its own kind")
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def _draw_strange(axes: Any, strange: Mapping[str, float], limit: float | None) -> None:
    if not strange or limit is None:
        axes.axis("off")
        return
    names = list(strange)
    axes.barh(range(len(names)), [strange[name] for name in names], color=_COLOURS[5])
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.axvline(limit, color="black", linewidth=0.9, linestyle="--")
    axes.set(xlabel="median distance (dashed: the limit)", title="Strange images")
