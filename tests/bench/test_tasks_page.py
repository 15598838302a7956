"""Each task's result is kept at once; the page is rebuilt between its markers, and nothing else of it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.tasks import BEGIN, END, PAGE, Results, main, measure_each, tables_of, write_page
from services.training.evaluation.evaluate_task import Evaluated
from services.training.evaluation.report import EvaluationReport, RiskPoint, SetFigures, StrangeFigures
from services.training.measures.bootstrap import Estimate, exact_share
from services.training.measures.metrics import Metrics
from shared.errors import ConfigurationError
from shared.vision.curves import Curves

SHARE = Estimate(value=0.8, low=0.7, high=0.9)


def report(task: str, ece: float = 0.05) -> EvaluationReport:
    metrics = Metrics(
        n=40,
        patients=40,
        accuracy=SHARE,
        balanced_accuracy=SHARE,
        ece=ece,
        ece_if_calibrated=0.04,
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


def measured(task: str, ece: float = 0.05) -> Evaluated:
    curves = Curves(head_id=f"head of {task}", roc=(), calibration=())
    return Evaluated(report(task, ece), f"picture of {task}".encode(), curves)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "tasks.md").write_text(f"before\n{BEGIN}\nolder tables\n{END}\nafter\n")
    return Results(tmp_path / "results" / "tasks.json", tmp_path / "tasks.md", tmp_path / "tasks")


def test_a_broken_run_loses_the_task_under_way_only(results: Results) -> None:
    def measure(task: str) -> Evaluated:
        if task == "blood-smear":
            raise KeyboardInterrupt
        return measured(task)

    with pytest.raises(KeyboardInterrupt):
        measure_each(["lung-ct", "brain-mr", "blood-smear", "retina-fundus"], measure, results, Console(quiet=True))
    assert results.kept() == {"brain-mr": report("brain-mr"), "lung-ct": report("lung-ct")}
    text = results.page.read_text()
    assert "tasks/brain-mr.png" in text
    assert "tasks/lung-ct.png" in text
    assert "retina-fundus" not in text
    assert (results.figures / "lung-ct.png").read_bytes() == b"picture of lung-ct"


def test_a_task_measured_anew_takes_its_own_place_and_leaves_the_others(results: Results) -> None:
    measure_each(["retina-fundus", "brain-mr"], measured, results, Console(quiet=True))
    measure_each(["brain-mr"], lambda task: measured(task, 0.2), results, Console(quiet=True))
    assert list(results.kept()) == ["brain-mr", "retina-fundus"]  # the recipes' order, whatever was measured first
    assert results.kept()["brain-mr"].sets[0].metrics.ece == 0.2
    assert results.kept()["retina-fundus"] == report("retina-fundus")
    assert [path.name for path in results.json.parent.iterdir()] == ["tasks.json"]


def test_results_that_cannot_be_read_stop_a_run_before_its_work(results: Results) -> None:
    results.json.parent.mkdir()
    results.json.write_text('{"tasks": [{}]}')
    asked: list[str] = []
    with pytest.raises(ConfigurationError, match="move it away"):
        measure_each(["brain-mr"], lambda task: asked.append(task) or measured(task), results, Console(quiet=True))
    assert asked == []
    assert "older tables" in results.page.read_text()


def test_the_page_can_be_written_again_without_measuring(results: Results) -> None:
    measure_each(["brain-mr"], measured, results, Console(quiet=True))
    whole = results.page.read_text()
    results.page.write_text(f"other words\n{BEGIN}\n{END}\n")
    options = ("--json", results.json, "--page", results.page, "--figures", results.figures)
    main(["--page-only", *map(str, options)])
    assert results.page.read_text() == "other words" + whole.removeprefix("before").removesuffix("after\n")


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "tasks.md"
    page.write_text(f"before\n{BEGIN}\nolder tables\n{END}\nafter\n")
    for _ in range(2):
        write_page(page, [report("x"), report("y")], Path("docs/tasks"))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "older tables" not in text
    assert text.count("tasks/x.png") == text.count("tasks/y.png") == 1
    assert "| x | Fresh | 40 | 0.500 | 0.800 (0.700 to 0.900) |" in text


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


def test_the_page_in_docs_is_that_of_the_kept_results(tmp_path: Path) -> None:
    kept = Results(Path("bench/results/tasks.json"), tmp_path / "tasks.md", Path("docs/tasks"))
    kept.page.write_text(PAGE.read_text())
    kept.write_page()
    assert kept.page.read_text() == PAGE.read_text(), "python -m bench.tasks --page-only"
    assert {path.stem for path in kept.figures.glob("*.png")} == set(kept.kept())


def test_the_kept_results_are_of_the_heads_that_come_with_similis() -> None:
    kept = Results(Path("bench/results/tasks.json"), PAGE, Path("docs/tasks")).kept()
    cards = {task: json.loads(Path(f"shared/tasks/{task}/model-card.json").read_text()) for task in kept}
    assert {task: one.head_id for task, one in kept.items()} == {task: card["head_id"] for task, card in cards.items()}


def test_a_missed_aim_is_said_plainly_and_a_met_one_is_not() -> None:
    strange = StrangeFigures(kind="noise", n=20, auroc=0.94, flagged=exact_share(9, 20), distance=1.2, is_required=True)
    missed = report("x", ece=0.07).model_copy(update={"ood_limit": 1.5, "ood_kind": "k", "strange": (strange,)})
    text = "\n".join(tables_of([missed, report("y")], "tasks"))
    assert "- x: ECE 0.070 on *Fresh* (a calibrated head would show 0.040); noise not told apart (AUROC 0.940)." in text
    assert "- y: none." in text
    assert "| noise | 0.940, flagged 9 of 20 | own kind, or not measured |" in text
