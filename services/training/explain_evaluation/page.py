"""The figures of an evaluation of maps on one page: each method's, with its interval, and the mean curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.training.explain_evaluation.measured_maps import MeasuredFrame
from services.training.explain_evaluation.report import FIGURES, LOWER_IS_BETTER, ExplainReport, figure_name
from shared.saliency.faithfulness import Curves

# Okabe and Ito's colours, told apart by most colour-blind people.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
_DASHES: Final = ("-", "--", ":")
_DOTS_PER_INCH: Final = 80


def explain_page(report: ExplainReport, frames: Sequence[MeasuredFrame], *, title: str) -> bytes:
    """PNG bytes. The same figures always give the same file."""
    figure = Figure(figsize=(12, 11), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, 4)
    for axes in grid.ravel():
        axes.axis("off")
    for place, name in enumerate(FIGURES):
        _draw_figure(grid.ravel()[place], report, name, with_names=place % grid.shape[1] == 0)
    names = [method.method for method in report.methods]
    _draw_curves(grid[2, 0], frames, names, "insertion")
    _draw_curves(grid[2, 1], frames, names, "deletion")
    handles, labels = grid[2, 1].get_legend_handles_labels()
    grid[2, 2].legend(handles, labels, loc="center", frameon=False, fontsize=8)
    figure.suptitle(
        f"{title}: {report.frames} phantom frames with a known lesion; 95 % intervals over patients; research use only",
        fontsize=11,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_figure(axes: Any, report: ExplainReport, name: str, *, with_names: bool) -> None:
    axes.axis("on")
    for place, method in enumerate(report.methods):
        estimate = method.figures[name]
        if estimate is None:
            continue
        colour = _COLOURS[place % len(_COLOURS)]
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
        axes.plot([estimate.value], [place], marker="o", color=colour, markersize=5)
    if (chance := report.chance.get(name)) is not None:
        axes.axvline(chance.value, color="black", linewidth=0.8, linestyle="--")
    labels = [method.method for method in report.methods] if with_names else []
    axes.set_yticks(range(len(report.methods)) if with_names else [], labels, fontsize=8)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(report.methods) - 0.5, -0.5))
    better = "lower is better" if name in LOWER_IS_BETTER else "higher is better"
    axes.set_title(f"{figure_name(name)} ({better})", fontsize=9)


def _draw_curves(axes: Any, frames: Sequence[MeasuredFrame], names: Sequence[str], game: str) -> None:
    axes.axis("on")

    def draw(curves: Sequence[Curves], name: str, colour: str, dash: str) -> None:
        mean = np.mean([getattr(one, game) for one in curves], axis=0)
        axes.plot(curves[0].shares, mean, color=colour, linestyle=dash, label=name, linewidth=1.3)

    for place, name in enumerate(names):
        own = [frame.maps[name].faithfulness.curves for frame in frames]
        draw(own, name, _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)])
    draw([curves for frame in frames for curves in frame.chance], "random orders", "black", "--")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"share of pixels ({game})")
    axes.set_title(f"mean probability, {game}", fontsize=9)
