"""The picture of results: bars with the lowest and highest run as whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.listener.report import Column, memory_columns, store_columns, titles
from bench.listener.results import Results

# Okabe and Ito's colours, told apart by most colour-blind people; a receiver keeps its own.
_COLOURS: Final = {
    "similis": "#0072B2",
    "orthanc": "#E69F00",
    "storescp": "#999999",
    "storescp-bit-preserving": "#CCCCCC",
    "pynetdicom": "#009E73",
}
_DOTS_PER_INCH: Final = 150


def draw(results: Results, path: Path) -> None:
    """Write a PNG or SVG, by the name's suffix."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "similis"  # the same results, the same file
    from matplotlib import pyplot as plt

    panels = _panels(results)
    figure, grid = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(12, 3.6 * ((len(panels) + 1) // 2)), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (title, columns) in zip(grid.flat, panels, strict=False):
        _bars(axes, title, columns, titles(results))
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False, fontsize=9)
    machine, repeats = results.machine, results.plan.repeats
    runs = f"{repeats} runs" if repeats > 1 else "1 run"
    figure.suptitle(
        f"{results.plan.objects:,} CT slices of 0.5 MB by storescu; {machine.cores} cores, {machine.cpu}; "
        f"median, lowest and highest of {runs}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _panels(results: Results) -> list[tuple[str, list[Column]]]:
    memory = memory_columns(results)
    panels = [
        (
            "objects a second, TCP_NODELAY",
            store_columns(results, lambda run: run.objects_per_s, no_delay=True, digits=0),
        ),
        (
            "CPU of the receiver, ms an object",
            store_columns(results, lambda run: run.receiver_cpu_ms_per_object, no_delay=True, digits=1),
        ),
        (
            "objects a second, all as shipped (Nagle on)",
            store_columns(results, lambda run: run.objects_per_s, no_delay=False, digits=0),
        ),
        ("memory, MB", [column for column in memory if column.title.endswith(", MB")]),
    ]
    return [(title, columns) for title, columns in panels if columns]


def _bars(axes: Any, title: str, columns: Sequence[Column], names: dict[str, str]) -> None:
    width = 0.8 / len(names)
    for number, (name, shown) in enumerate(names.items()):
        spreads = [(place, spread) for place, column in enumerate(columns) if (spread := column.spread(name))]
        heights = [spread.median for _, spread in spreads]
        bars = axes.bar(
            [place + (number - (len(names) - 1) / 2) * width for place, _ in spreads],
            heights,
            width,
            label=shown,
            color=_COLOURS.get(name, "#000000"),
            yerr=[
                [spread.median - spread.low for _, spread in spreads],
                [spread.high - spread.median for _, spread in spreads],
            ],
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        digits = columns[0].digits
        axes.bar_label(bars, [f"{height:,.{digits}f}" for height in heights], fontsize=7, padding=2)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks(range(len(columns)), [_wrapped(column.title) for column in columns], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if any(_negative(column) for column in columns) else 0)


def _negative(column: Column) -> bool:
    return any(value < 0 for by_block in column.values.values() for value in by_block.values())


def _wrapped(title: str) -> str:
    """Long names of columns in two lines, without their unit."""
    return title.removesuffix(", MB").replace(" by ", "\nby ").replace(", ", "\n")
