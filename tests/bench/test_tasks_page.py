"""The page of figures is rebuilt between its markers, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tasks import BEGIN, END, PAGE, tables_of, write_page
from services.training.evaluation.report import EvaluationReport, RiskPoint, SetFigures
from services.training.measures.bootstrap import Estimate
from services.training.measures.metrics import Metrics

SHARE = Estimate(value=0.8, low=0.7, high=0.9)


def report(task: str) -> EvaluationReport:
    metrics = Metrics(
        n=40,
        patients=40,
        accuracy=SHARE,
        balanced_accuracy=SHARE,
        ece=0.05,
        recall={"a": 0.8, "b": None},
        confusion=[[32, 8], [0, 0]],
        coverage=0.9,
        accuracy_answered=None,
    )
    return EvaluationReport(
        task=task,
        title=f"{task}, phantoms",
        notice="Research use only.",
        head_id=f"{task}@0",
        backbone_id="b",
        labels=("a", "b"),
        abstain_below=0.5,
        ood_limit=None,
        ood_kind=None,
        sets=(SetFigures(title="Fresh", metrics=metrics, risk=(RiskPoint(coverage=1.0, risk=0.2),)),),
        seed=0,
        bootstraps=100,
        command=f"similis evaluate {task}",
    )


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "tasks.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_page(page, [report("x"), report("y")], Path("docs/tasks"))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("tasks/x.png") == text.count("tasks/y.png") == 1
    assert "| x | Fresh | 40 | 0.800 (0.700 to 0.900) |" in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "tasks.md"
    page.write_text("mine")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_page(page, [], Path("docs/tasks"))
    assert page.read_text() == "mine"


def test_the_page_in_docs_has_the_markers() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_a_report_without_optional_figures_still_makes_tables() -> None:
    text = "\n".join(tables_of([report("x")], "tasks"))
    assert "Research use only" in text
    assert "Out of distribution" not in text
    assert "None" not in text
