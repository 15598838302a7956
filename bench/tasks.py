"""docs/tasks.md from measurement: every installed task evaluated, the tables between markers written anew.

    python -m bench.tasks --json bench/results/tasks.json      # all installed tasks
    python -m bench.tasks lung-ct --json …                     # one; the others' kept results stay
    python -m bench.tasks --page-only --json …                 # the page again, nothing measured

What a task was measured to be is kept, and the page written, before the next one begins. Research use only; phantom
results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from rich.console import Console

from services.training.evaluation.command import evaluate
from services.training.evaluation.evaluate_task import Evaluated
from services.training.evaluation.markdown import report_markdown
from services.training.evaluation.report import EvaluationReport
from services.training.evaluation.request import EvaluateRequest
from services.training.evaluation.summary import summary
from services.training.phantoms import NAMES
from shared.errors import ConfigurationError
from shared.vision.tasks import task_names

BEGIN: Final = "<!-- begin: written by python -m bench.tasks -->"
END: Final = "<!-- end: written by python -m bench.tasks -->"
PAGE: Final = Path("docs/tasks.md")
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "brain-mr": (32, 0),  # eight frames a study
    "lung-ct": (48, 30),
    "blood-smear": (48, 30),
    "retina-fundus": (60, 36),
}
"""Studies in each set, and studies to fit a comparison on: what two CPU cores do in some minutes."""
_USUAL_SIZES: Final = (48, 40)


@dataclass(frozen=True, slots=True)
class Results:
    """Where results are kept: the figures as JSON, a picture of each task, and the page made of them."""

    json: Path
    page: Path
    figures: Path

    def kept(self) -> dict[str, EvaluationReport]:
        """By task, in the order of the recipes; empty where nothing was kept yet.

        Raises:
            ConfigurationError: what was kept cannot be read.
        """
        if not self.json.exists():
            return {}
        try:
            values = json.loads(self.json.read_text(encoding="utf-8"))["tasks"]
            reports = [EvaluationReport.model_validate(value) for value in values]
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise ConfigurationError(
                f"{self.json} holds no kept results; move it away to begin anew: {error}"
            ) from error
        return {report.task: report for report in sorted(reports, key=_place)}

    def keep(self, evaluated: Evaluated) -> None:
        """Put a task's result in the place of its older one, then write the page.

        Raises:
            ConfigurationError: what was kept before cannot be read.
            ValueError: the page has no markers.
        """
        task = evaluated.report.task
        reports = sorted({**self.kept(), task: evaluated.report}.values(), key=_place)
        self.figures.mkdir(parents=True, exist_ok=True)
        (self.figures / f"{task}.png").write_bytes(evaluated.page)
        self.json.parent.mkdir(parents=True, exist_ok=True)
        values = {"tasks": [report.model_dump(mode="json") for report in reports]}
        _replace(self.json, json.dumps(values, indent=1) + "\n")
        self.write_page()

    def write_page(self) -> None:
        """The page of all that is kept.

        Raises:
            ConfigurationError: what was kept cannot be read.
            ValueError: the page has no markers.
        """
        write_page(self.page, list(self.kept().values()), self.figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure task by task, or only write the page."""
    options = _parser().parse_args(arguments)
    results, console = Results(options.json, options.page, options.figures), Console()
    if options.page_only:
        results.write_page()
        return
    installed = set(task_names(options.tasks_dir))

    def measure(task: str) -> Evaluated:
        return evaluate(_request(task, options), console)

    measure_each(options.tasks or [name for name in NAMES if name in installed], measure, results, console)


def measure_each(tasks: Sequence[str], measure: Callable[[str], Evaluated], results: Results, console: Console) -> None:
    """Measure tasks one after the other; each result is kept at once, so that a break loses the task under way only.

    Raises:
        SimilisError: a task cannot be measured; those before it are kept.
    """
    results.kept()  # what cannot be read is told before the hours of work, not after
    for task in tasks:
        started = time.monotonic()
        results.keep(measure(task))
        console.print(f"{task}: {time.monotonic() - started:.0f} s; kept in {results.json}, told in {results.page}")


def write_page(page: Path, reports: Sequence[EvaluationReport], figures: Path) -> None:
    """Replace what stands between the page's markers.

    Raises:
        ValueError: the page has no such markers.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}")
    tables = "\n".join(tables_of(reports, figures.name)) if reports else "Not measured yet.\n"
    _replace(page, f"{before}{BEGIN}\n\n{tables}\n{END}{after}")


def tables_of(reports: Sequence[EvaluationReport], figures: str) -> list[str]:
    """The lines of all tables: the summary, then each task."""
    lines = summary(reports)
    for report in reports:
        lines += [report_markdown(report, figure=f"{figures}/{report.task}.png", heading="##"), ""]
    return lines


def _place(report: EvaluationReport) -> tuple[int, str]:
    return (NAMES.index(report.task) if report.task in NAMES else len(NAMES), report.task)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _request(task: str, options: argparse.Namespace) -> EvaluateRequest:
    studies, compared = SIZES.get(task, _USUAL_SIZES)
    return EvaluateRequest(
        task=task,
        tasks_dir=options.tasks_dir,
        studies=studies if options.studies is None else options.studies,
        compare=tuple(options.compare),
        compare_studies=compared if options.compare_studies is None else options.compare_studies,
        strange=options.strange,
        seed=options.seed,
        draws=options.bootstraps,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tasks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", help="unset: all that are installed and have phantoms")
    parser.add_argument("--json", type=Path, default=Path("bench/results/tasks.json"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true", help="write the page of what is kept; measure nothing")
    parser.add_argument("--figures", type=Path, default=Path("docs/tasks"))
    parser.add_argument("--tasks-dir", type=Path, default=None)
    parser.add_argument("--studies", type=int, help="in each set; unset: the task's usual number")
    parser.add_argument(
        "--compare-studies", type=int, help="to fit on, 0: no comparison; unset: the task's usual number"
    )
    parser.add_argument("--compare", type=Path, action="append", default=[], help="a Hugging Face folder")
    parser.add_argument("--strange", type=int, default=16, help="images of each kind; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstraps", type=int, default=1000)
    return parser


if __name__ == "__main__":
    main()
