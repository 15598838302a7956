"""The picture of the engine's benchmark: milliseconds of a query by number of points, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.query.engine_results import EngineResults, Kind
from bench.query.growth import Figure, curve, exponent

# Okabe and Ito's colours, told apart by most colour-blind people.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_LINES: Final[tuple[tuple[Figure, str, str, str], ...]] = (
    ("engine_p50_ms", "engine, p50", "-", "o"),
    ("engine_p99_ms", "engine, p99", "--", "^"),
    ("numpy_p50_ms", "exact numpy, p50", ":", "s"),
)
_TITLES: Final[dict[Kind, str]] = {
    "none": "no filter",
    "filtered": "filtered",
    "grouped": "filtered, grouped by study",
}
_DOTS_PER_INCH: Final = 150


def draw(results: EngineResults, path: Path) -> None:
    """Write a PNG or SVG, by the name's suffix: a panel for each kind of search."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "similis"  # the same results, the same file
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(_TITLES), figsize=(13, 4.6), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, kind in zip(panels[0], _TITLES, strict=True):
        _panel(axes, results, kind)
    panels[0][0].set_ylabel("ms a query")
    machine, plan = results.machine, results.plan
    figure.suptitle(
        f"Top-10 with payload, {results.engine} in this process beside exact numpy, {plan.queries} queries each;\n"
        f"{machine.cores} cores, {machine.cpu}. Up to {plan.flat_below_points:,} points the engine is exact, too; "
        "above, a graph. n^x: slope by least squares",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _panel(axes: Any, results: EngineResults, kind: Kind) -> None:
    for colour, dim in zip(_COLOURS, results.plan.dims, strict=False):
        for name, title, line, marker in _LINES:
            sizes, values = curve(results.runs, dim, kind, name)
            label = f"{dim}: {title}, n^{exponent(sizes, values):.2f}"
            axes.plot(sizes, values, line, marker=marker, markersize=4, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="points")
    axes.set_title(_TITLES[kind], fontsize=10, loc="left")
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", linewidth=0.3)
