"""docs/tasks.md from measurement: every installed task evaluated, the tables between markers written anew.

    python -m bench.tasks --json bench/results/tasks.json

Research use only; phantom results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from services.training.evaluation.command import evaluate
from services.training.evaluation.markdown import report_markdown, summary_table
from services.training.evaluation.report import EvaluationReport
from services.training.evaluation.request import EvaluateRequest
from services.training.phantoms import NAMES
from shared.vision.tasks import task_names

BEGIN: Final = "<!-- begin: written by python -m bench.tasks -->"
END: Final = "<!-- end: written by python -m bench.tasks -->"
PAGE: Final = Path("docs/tasks.md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, then write the JSON, the pictures and the page."""
    options = _parser().parse_args(arguments)
    console = Console()
    installed = set(task_names(options.tasks_dir))
    reports = []
    for task in options.tasks or [name for name in NAMES if name in installed]:
        started = time.monotonic()
        request = EvaluateRequest(
            task=task,
            tasks_dir=options.tasks_dir,
            studies=options.studies,
            compare=tuple(options.compare),
            compare_studies=options.compare_studies,
            strange=options.strange,
            seed=options.seed,
            draws=options.bootstraps,
        )
        evaluated = evaluate(request, console)
        options.figures.mkdir(parents=True, exist_ok=True)
        (options.figures / f"{task}.png").write_bytes(evaluated.page)
        reports.append(evaluated.report)
        console.print(f"{task}: {time.monotonic() - started:.0f} s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    values = {"tasks": [report.model_dump(mode="json") for report in reports]}
    options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    write_page(options.page, reports, options.figures)
    console.print(f"{options.json} and {options.page} are written.")


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
    tables = "\n".join(tables_of(reports, figures.name))
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", encoding="utf-8")


def tables_of(reports: Sequence[EvaluationReport], figures: str) -> list[str]:
    """The lines of all tables: the summary, then each task."""
    lines = ["## All tasks", "", *summary_table(reports), ""]
    for report in reports:
        lines += [report_markdown(report, figure=f"{figures}/{report.task}.png", heading="##"), ""]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument("tasks", nargs="*", help="unset: all that are installed and have phantoms")
    parser.add_argument("--json", type=Path, default=Path("bench/results/tasks.json"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--figures", type=Path, default=Path("docs/tasks"))
    parser.add_argument("--tasks-dir", type=Path, default=None)
    parser.add_argument("--studies", type=int, default=100, help="in each set")
    parser.add_argument("--compare-studies", type=int, default=80, help="to fit on; 0: no comparison")
    parser.add_argument("--compare", type=Path, action="append", default=[], help="a Hugging Face folder")
    parser.add_argument("--strange", type=int, default=30, help="images of each kind; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstraps", type=int, default=1000)
    return parser


if __name__ == "__main__":
    main()
