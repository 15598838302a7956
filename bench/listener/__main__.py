"""`python -m bench.listener`: measure, print tables, keep the JSON, draw the plot."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from bench.listener import report
from bench.listener.benchmark import measure
from bench.listener.errors import BenchmarkError
from bench.listener.plot import draw
from bench.listener.receivers import Receiver, known_receivers
from bench.listener.results import Failure, IdleRun, LargeObjectRun, Plan, Results, Run, SetupRun, StoreRun, Work
from shared.errors import SimilisError

CHECKOUT: Final = Path(__file__).resolve().parents[2]
QUICK: Final = Plan(
    objects=100,
    repeats=1,
    other_repeats=1,
    default_sender_objects=20,
    setup_associations=20,
    large_object_bytes=64_000_000,
    idle_associations=20,
    idle_s=1.0,
)
_GROUPS: Final = {"memory": (Work.LARGE_OBJECT, Work.IDLE)}


def main(
    objects: Annotated[int | None, typer.Option(min=1, help="CT slices sent in each throughput run.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Blocks of throughput runs.")] = None,
    other_repeats: Annotated[int | None, typer.Option(min=1, help="Blocks of all other runs.")] = None,
    associations: Annotated[str | None, typer.Option(help="Numbers of associations, such as 1,4,8.")] = None,
    receivers: Annotated[
        str | None, typer.Option(help="similis, orthanc, storescp; also storescp-bit-preserving, pynetdicom.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="throughput, default-senders, setup, large-object, idle; memory: the last two.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few objects, one repeat: whether it works, not how fast.")
    ] = False,
    large_object_mb: Annotated[int | None, typer.Option(min=1, max=4000, help="Size of the large object.")] = None,
    idle_associations: Annotated[int | None, typer.Option(min=1, max=1000, help="Associations left idle.")] = None,
    setup_associations: Annotated[
        int | None, typer.Option(min=1, help="Associations with one small object each.")
    ] = None,
    similis_path: Annotated[Path, typer.Option(help="Checkout whose listener is measured.")] = CHECKOUT,
    similis_set: Annotated[
        list[str] | None,
        typer.Option(help="A setting of Similis without its prefix, such as LISTENER__PROCESSES=2; may be repeated."),
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Folder on the disk to be measured; needs about 4 GB for a while.")
    ] = CHECKOUT / "build" / "bench",
    json: Annotated[Path | None, typer.Option(help="Where to keep every run.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw a PNG or SVG.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    from_json: Annotated[Path | None, typer.Option(help="Measure nothing: show what was kept by --json.")] = None,
) -> None:
    """Measure the listener beside Orthanc and DCMTK's storescp, on this machine and in one run."""
    given = {
        "objects": objects,
        "repeats": repeats,
        "other_repeats": other_repeats,
        "associations": _numbers(associations),
        "receivers": tuple(receivers.split(",")) if receivers else None,
        "work": _works(only),
        "large_object_bytes": large_object_mb * report.MB if large_object_mb else None,
        "idle_associations": idle_associations,
        "setup_associations": setup_associations,
    }
    plan = Plan.model_validate(
        (QUICK if quick else Plan()).model_dump() | {name: value for name, value in given.items() if value is not None}
    )
    if from_json is None:
        known = known_receivers(similis_path.resolve(), _settings(similis_set or ()))
        results = _measured(plan, known, similis_path.resolve(), work)
    else:
        results = Results.model_validate_json(from_json.read_text())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(results.model_dump_json(indent=1) + "\n")
    if plot is not None:
        draw(results, plot)
    _show(results, markdown=markdown)
    raise typer.Exit(1 if results.failures else 0)


def _measured(plan: Plan, known: dict[str, Receiver], checkout: Path, work: Path) -> Results:
    if unknown := set(plan.receivers) - set(known):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}; known are {', '.join(known)}", param_hint="--receivers"
        )
    # SIGTERM ends as Ctrl-C does, also in the background: receivers, senders and folders go with it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work), tempfile.TemporaryDirectory(dir=work, prefix="listener-") as folder:
        return measure(
            plan,
            known,
            checkout=checkout,
            folder=Path(folder),
            progress=lambda run, kind: print(f"{kind:<16} {run.receiver:<12} {_in_short(run)}", file=sys.stderr),
        )


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold `work` against other benchmarks: the figures of two at once would be worth nothing."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchmarkError(
                "another benchmark is running; wait for it, or give another folder by --work"
            ) from None
        yield


def _show(results: Results, *, markdown: bool) -> None:
    if markdown:
        parts = [table.markdown() for table in report.tables(results)]
        print("\n\n".join([*parts, "\n".join(f"- {note}" for note in report.footnotes(results))]))
        return
    console = Console()
    for table in report.tables(results):
        console.print(table.rich())
    for note in report.footnotes(results):
        console.print(note, style="dim", markup=False)


def _in_short(run: Run) -> str:
    match run:
        case StoreRun():
            return (
                f"{run.associations} associations: {run.objects_per_s:6.0f} objects/s, "
                f"{run.receiver_cpu_ms_per_object:.2f} ms CPU an object"
            )
        case SetupRun():
            return f"{run.receiver_cpu_ms_per_association:.1f} ms CPU an association"
        case LargeObjectRun():
            return f"{run.peak_rss_growth_bytes / report.MB:.0f} MB growth, {run.wall_s:.1f} s"
        case IdleRun():
            return (
                f"{run.established} open, {run.pss_growth_bytes / report.MB:.0f} MB growth, "
                f"{run.cpu_percent:.1f} % of a core"
            )
        case Failure():
            return f"FAILED: {run.reason}"
    return ""


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(text, param_hint="--associations") from error


def _works(text: str | None) -> tuple[Work, ...] | None:
    if text is None:
        return None
    works: list[Work] = []
    for name in text.split(","):
        try:
            works += _GROUPS.get(name) or (Work(name),)
        except ValueError as error:
            raise typer.BadParameter(name, param_hint="--only") from error
    return tuple(works)


def _settings(assignments: Sequence[str]) -> dict[str, str]:
    settings = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(assignment, param_hint="--similis-set")
        settings[name.removeprefix("SIMILIS_")] = value
    return settings


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.listener: {error}", file=sys.stderr)
        sys.exit(1)
