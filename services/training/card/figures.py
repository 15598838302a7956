"""Figures of a card: ROC, confusion and reliability, as small PNG files that the same numbers always give alike."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from services.training.measures.scores import CALIBRATION_BINS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
_NOTICE: Final = "research use only"


def card_figures(probabilities: Floats, classes: Ints, labels: tuple[str, ...], title: str) -> dict[str, bytes]:
    """PNG bytes by file name.

    Args:
        probabilities: (N, C) calibrated.
        classes: (N,) true classes.
        labels: C names.
        title: Of what: it stands above each figure.
    """
    return {
        "roc.png": roc_figure(probabilities, classes, labels, title),
        "confusion.png": confusion_figure(probabilities, classes, labels, title),
        "reliability.png": reliability_figure(probabilities, classes, title),
    }


def roc_figure(probabilities: Floats, classes: Ints, labels: tuple[str, ...], title: str) -> bytes:
    """Each class against the rest."""
    figure, axes = _figure(title)
    for index, label in enumerate(labels):
        false, true = roc_points(probabilities[:, index], classes == index)
        axes.step(false, true, where="post", color=_COLOURS[index % len(_COLOURS)], label=label, linewidth=1.4)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return _png(figure)


def confusion_figure(probabilities: Floats, classes: Ints, labels: tuple[str, ...], title: str) -> bytes:
    """Counts, true classes down, predicted ones across; shaded by the share of the true class."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (classes, probabilities.argmax(axis=1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(title)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _png(figure)


def reliability_figure(probabilities: Floats, classes: Ints, title: str) -> bytes:
    """How often answers of each confidence are right; a dot's area grows with the number of answers."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    used = [k for k in range(CALIBRATION_BINS) if np.any(bins == k)]
    figure, axes = _figure(title)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    mean = [confidence[bins == k].mean() for k in used]
    right = [correct[bins == k].mean() for k in used]
    axes.plot(mean, right, color=_COLOURS[0], linewidth=1.2)
    axes.scatter(mean, right, s=[10 + 200 * float((bins == k).mean()) for k in used], color=_COLOURS[0])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    return _png(figure)


def roc_points(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """False and true positive rates at every limit, from none called positive to all."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true = np.cumsum(positive[order])[ends] / max(1, int(positive.sum()))
    false = np.cumsum(~positive[order])[ends] / max(1, int((~positive).sum()))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def _figure(title: str) -> tuple[Figure, Any]:
    # No pyplot: it keeps state, and picks a display.
    figure = Figure(figsize=(4.2, 3.8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(f"{title}\n{_NOTICE}", fontsize=9)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
