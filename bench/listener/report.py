"""Tables of results: medians with their ranges, and ratios paired within blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from rich.table import Table as RichTable

from bench.listener.measure import median
from bench.listener.results import Results, Run, StoreRun

SIMILIS: Final = "similis"
COMPARED: Final = ("orthanc", "storescp")
MB: Final = 1_000_000

RunType = TypeVar("RunType", bound=Run)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several runs, and the lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        return cls(median(list(values)), min(values), max(values)) if values else None


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of each receiver: `values` by receiver and block."""

    title: str
    values: dict[str, dict[int, float]]
    digits: int
    has_ratio: bool = True
    """Not where others can be near zero: a ratio then says nothing."""

    def spread(self, receiver: str) -> Spread | None:
        """Over all blocks."""
        return Spread.of(list(self.values.get(receiver, {}).values()))

    def ratio(self, receiver: str, other: str) -> Spread | None:
        """`receiver` by `other`, taken within each block that has both."""
        if not self.has_ratio:
            return None
        ours, theirs = self.values.get(receiver, {}), self.values.get(other, {})
        return Spread.of([ours[block] / theirs[block] for block in sorted(ours) if theirs.get(block)])


@dataclass(frozen=True, slots=True)
class Table:
    """What is shown, as text in cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row, style="bold" if _is_ratio(row[0]) else None)
        return table

    def markdown(self) -> str:
        """For the README."""
        lines = [f"**{self.title}**", "", _line(self.header), _line(["---", *["---:"] * (len(self.header) - 1)])]
        lines += [_line([f"**{cell}**" for cell in row] if _is_ratio(row[0]) else row) for row in self.rows]
        return "\n".join(lines)

    def turned(self) -> Table:
        """Rows as columns, for figures with long names."""
        header, *rows = zip(self.header, *self.rows, strict=True)
        return Table(self.title, ("", *header[1:]), tuple(rows))


def tables(results: Results) -> list[Table]:
    """Every table that there are runs for."""
    plan = results.plan
    wanted = (
        (
            f"Objects a second, {plan.objects:,} CT slices of 512 x 512 x 16 bit, TCP_NODELAY",
            store_columns(results, lambda run: run.objects_per_s, no_delay=True, digits=0),
        ),
        (
            "CPU of the receiver, ms an object",
            store_columns(results, lambda run: run.receiver_cpu_ms_per_object, no_delay=True, digits=2),
        ),
        (
            f"Objects a second, {plan.default_sender_objects:,} CT slices, all as shipped (Nagle on)",
            store_columns(results, lambda run: run.objects_per_s, no_delay=False, digits=0),
        ),
    )
    shown = [_table(title, columns, results) for title, columns in wanted if columns]
    memory = memory_columns(results)
    return [*shown, _table("Memory and associations", memory, results).turned()] if memory else shown


def store_columns(
    results: Results, figure: Callable[[StoreRun], float], *, no_delay: bool, digits: int
) -> list[Column]:
    """A column for each number of associations."""
    runs = [run for run in results.stores if run.no_delay is no_delay]
    return [
        Column(
            f"{associations} association{'s' if associations > 1 else ''}",
            _by_receiver([run for run in runs if run.associations == associations], figure),
            digits,
        )
        for associations in sorted({run.associations for run in runs})
    ]


def memory_columns(results: Results) -> list[Column]:
    """Memory in MB (10^6 bytes), and the CPU of associations themselves."""
    plan, most = results.plan, max(results.plan.associations)
    stores = [run for run in results.stores if run.no_delay and run.associations == most]
    larges, idles, setups = results.large_objects, results.idles, results.setups
    large, idle = f"{plan.large_object_bytes / MB:,.0f} MB object", f"{plan.idle_associations} idle associations"
    columns = [
        Column(f"peak RSS, {most} associations, MB", _by_receiver(stores, lambda run: run.peak_rss_bytes / MB), 0),
        Column(
            f"peak RSS growth by a {large}, MB",
            _by_receiver(larges, lambda run: run.peak_rss_growth_bytes / MB),
            0,
            has_ratio=False,
        ),
        Column(f"{large}, MB/s", _by_receiver(larges, lambda run: run.size_bytes / MB / run.wall_s), 0),
        Column(f"growth by {idle}, MB", _by_receiver(idles, lambda run: run.pss_growth_bytes / MB), 0, has_ratio=False),
        Column(f"{idle}, still open", _by_receiver(idles, lambda run: float(run.established)), 0, has_ratio=False),
        Column(f"{idle}, CPU, % of a core", _by_receiver(idles, lambda run: run.cpu_percent), 1, has_ratio=False),
        Column(
            "CPU for an association with one small object, ms",
            _by_receiver(setups, lambda run: run.receiver_cpu_ms_per_association),
            1,
        ),
    ]
    return [column for column in columns if column.values]


def footnotes(results: Results) -> list[str]:
    """What one must know to read the tables."""
    machine, plan = results.machine, results.plan
    probes = [value for probe in results.disk_probes for value in probe.milliseconds]
    versions = ", ".join(f"{found.title}: {found.version}" for found in results.receivers)
    commit = (results.commit or "unknown")[:12] + (" with changes" if results.commit_is_modified else "")
    notes = [
        f"Median (lowest to highest) of {plan.repeats} blocks for throughput, {plan.other_repeats} for all else. "
        "Ratios are taken within a block, where each receiver has one run, and are medians too.",
        f"{machine.cores} cores of {machine.cpu}, {machine.kernel}, {machine.file_system}; one durable write of "
        f"0.5 MB: {median(probes):.1f} ms ({min(probes):.1f} to {max(probes):.1f}).",
        f"{versions}. Commit {commit}, {results.made_at}, {results.duration_s / 60:.1f} min.",
    ]
    notes += [f"Skipped: {name}, {reason}." for name, reason in results.skipped.items()]
    notes += [
        f"FAILED: {failure.receiver}, {failure.work}, block {failure.block}: {failure.reason}"
        for failure in results.failures
    ]
    return notes


def titles(results: Results) -> dict[str, str]:
    """Receivers' titles by name, in their order."""
    return {found.name: found.title for found in results.receivers}


def _by_receiver(runs: Sequence[RunType], figure: Callable[[RunType], float]) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        values.setdefault(run.receiver, {})[run.block] = figure(run)
    return values


def _table(title: str, columns: Sequence[Column], results: Results) -> Table:
    names = titles(results)
    rows = [
        (shown, *(_figure(column.spread(name), column.digits) for column in columns)) for name, shown in names.items()
    ]
    if SIMILIS in names:
        rows += [
            (
                f"Similis / {_short(names[other])}",
                *(_figure(column.ratio(SIMILIS, other), 2, "x") for column in columns),
            )
            for other in COMPARED
            if other in names
        ]
    return Table(title, ("receiver", *(column.title for column in columns)), tuple(rows))


def _figure(spread: Spread | None, digits: int, unit: str = "") -> str:
    if spread is None:
        return "-"
    shown = f"{spread.median:,.{digits}f}{unit}"
    low, high = f"{spread.low:,.{digits}f}", f"{spread.high:,.{digits}f}"
    return shown if low == high else f"{shown} ({low} to {high})"


def _is_ratio(name: str) -> bool:
    return name.startswith("Similis / ")


def _short(title: str) -> str:
    """A title without what stands in brackets."""
    return title.partition(" (")[0]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
