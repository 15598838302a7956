"""docs/retrieval.md and its plot from the reports that are kept beside the heads. Nothing is measured here.

    similis evaluate retrieval TASK --out shared/tasks/TASK     # measures, for each task
    python -m bench.retrieval                                   # the tables between the page's markers, and the plot

Research use only; phantom results.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from services.training.phantoms import NAMES
from services.training.retrieval_evaluation.markdown import retrieval_markdown
from services.training.retrieval_evaluation.page import retrieval_page
from shared.errors import ConfigurationError
from shared.vision.live_version import live_folder
from shared.vision.retrieval_report import RetrievalReport
from shared.vision.tasks import BUILT_IN, load_task

BEGIN: Final = "<!-- begin: written by python -m bench.retrieval -->"
END: Final = "<!-- end: written by python -m bench.retrieval -->"
PAGE: Final = Path("docs/retrieval.md")
PLOT: Final = Path("docs/retrieval.png")


def main() -> int:
    """Write the page."""
    try:
        reports = kept_reports()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    if not reports:
        print("no report is kept: run similis evaluate retrieval TASK --out shared/tasks/TASK", file=sys.stderr)
        return 2
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page, retrieval_markdown(reports)), encoding="utf-8")
    PLOT.write_bytes(retrieval_page(reports))
    return 0


def kept_reports() -> list[RetrievalReport]:
    """Those of the built-in heads, as they are now.

    Raises:
        ConfigurationError: a task or a report cannot be read.
    """
    tasks = [(name, load_task(BUILT_IN / name)) for name in NAMES]
    found = [
        RetrievalReport.load(live_folder(BUILT_IN / name), head_id=task.head.id, backbone_id=task.head.backbone_id)
        for name, task in tasks
    ]
    return [report for report in found if report is not None]


def with_tables(page: str, tables: str) -> str:
    """The page with the tables between its markers.

    Raises:
        ValueError: it has no markers.
    """
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


if __name__ == "__main__":
    raise SystemExit(main())
