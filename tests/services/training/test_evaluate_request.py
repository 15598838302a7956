"""What `similis evaluate` measures on: never on what trained the head, and never silently on something else."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from labelled_images import DEFINITION, PlainEncoder, jpeg, picture, write_class_folders
from typer.testing import CliRunner

from services.training.dataset.cases import DatasetError
from services.training.dataset.folder_dataset import folder_dataset
from services.training.dataset.training_objects import is_trained_on
from services.training.evaluation import request as request_module
from services.training.evaluation.command import evaluate_command
from services.training.evaluation.measured_task import MeasuredTask, measured_task
from services.training.evaluation.request import EvaluateRequest, comparison_of, sets_of
from services.training.phantoms.brain_mr import BrainMr
from services.training.settings import DEFAULT_TASKS, TrainSettings
from services.training.train_task import TrainOptions, train_task
from services.training.versions import keep_candidate, promote
from shared.errors import ConfigurationError
from shared.settings import VisionSettings
from shared.vision.tasks import BUILT_IN, Task

SEED = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures are the same, and in different splits once they are drawn with seed 3."""
    folder = write_class_folders(tmp_path_factory.mktemp("images"), 20)
    for number in range(4):
        (folder / "spot" / f"copy{number}.jpg").write_bytes(jpeg(picture(1, "spot"), 90 + number))
    return folder


@pytest.fixture(scope="module")
def tasks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks with one candidate, whose leaking cases were moved; nothing is live."""
    trained = train_task(
        DEFINITION, folder_dataset(folder, DEFINITION), PlainEncoder(), TrainOptions(seed=SEED, drop_duplicates=True)
    )
    assert trained.card.data.cases_moved > 0
    tasks = tmp_path_factory.mktemp("tasks")
    (tasks / "shapes").mkdir()
    keep_candidate(tasks / "shapes", trained.write)
    return tasks


@pytest.fixture(scope="module")
def measured(tasks: Path) -> MeasuredTask:
    (version,) = (tasks / "shapes" / "versions").iterdir()
    return measured_task(tasks, "shapes", version.name)


def test_a_folder_is_measured_on_no_case_that_trained_the_head(folder: Path, measured: MeasuredTask) -> None:
    trained_on = measured.trained_on()
    request = EvaluateRequest("shapes", folder=folder, seed=0)
    ((title, test),) = sets_of(request, measured.task, trained_on).items()
    assert len(test) >= 10
    assert not any(is_trained_on(case, trained_on) for case in test)
    # Training's seed draws training's split; only what training moved is left out.
    ((plain, drawn),) = sets_of(request, measured.task).items()
    assert plain == "Test split of a folder"
    assert {case.study for case in test} < {case.study for case in drawn}
    assert title == f"Test split of a folder, without {len(drawn) - len(test)} cases that trained the head"
    sets = (sets_of(replace(request, seed=seed), measured.task, trained_on) for seed in (0, 5))
    assert len({tuple(case.study for case in one[title]) for one in sets}) == 1


def test_a_comparison_is_measured_on_the_same_cases(folder: Path, measured: MeasuredTask) -> None:
    request, trained_on = EvaluateRequest("shapes", folder=folder, compare=(folder,)), measured.trained_on()
    compared = comparison_of(request, measured.task, VisionSettings(), trained_on)
    ((_, test),) = sets_of(request, measured.task, trained_on).items()
    assert compared is not None
    assert [case.study for case in compared.test] == [case.study for case in test]
    assert not {case.study for case in compared.test} & {case.study for case in compared.training}


def test_a_folder_from_elsewhere_is_measured_as_a_whole(folder: Path, measured: MeasuredTask, tmp_path: Path) -> None:
    elsewhere = write_class_folders(tmp_path, 4, first_seed=9000)
    request = EvaluateRequest("shapes", folder=elsewhere, all_cases=True)
    trained_on = measured.trained_on()
    assert len(sets_of(request, measured.task, trained_on)["All cases of a folder"]) == 12
    trained = next(case for case in folder_dataset(folder, DEFINITION).cases if is_trained_on(case, trained_on))
    (elsewhere / trained.label / "renamed.png").write_bytes(trained.load().objects[0])
    with pytest.raises(DatasetError, match="1 of 13 cases trained this head"):
        sets_of(request, measured.task, trained_on)


def test_a_folder_can_have_a_layout(folder: Path, measured: MeasuredTask) -> None:
    with pytest.raises(DatasetError, match="layout"):
        sets_of(EvaluateRequest("shapes", folder=folder, layout="unheard-of"), measured.task)


def test_a_candidate_is_measured_before_it_goes_live(tasks: Path, tmp_path: Path) -> None:
    (version,) = (tasks / "shapes" / "versions").iterdir()
    assert measured_task(tasks, "shapes", version.name).folder == version
    with pytest.raises(ConfigurationError, match="has a live task shapes"):
        measured_task(tasks, "shapes")
    for name in ("0" * 12 + "-" + "0" * 8, "../.."):
        with pytest.raises(ConfigurationError, match="similis task list"):
            measured_task(tasks, "shapes", name)


def test_a_live_task_hides_the_built_in_one_and_a_candidate_does_not(tasks: Path, tmp_path: Path) -> None:
    assert measured_task(tmp_path / "none", "brain-mr").folder == BUILT_IN / "brain-mr"
    (tmp_path / "brain-mr" / "versions").mkdir(parents=True)
    assert measured_task(tmp_path, "brain-mr").folder == BUILT_IN / "brain-mr"
    (tmp_path / "shapes").mkdir()
    (version,) = (tasks / "shapes" / "versions").iterdir()
    kept = keep_candidate(tmp_path / "shapes", lambda to: _copy(version, to))
    promote(tmp_path / "shapes", kept, backbone=PlainEncoder.id)
    assert measured_task(tmp_path, "shapes").folder == tmp_path / "shapes" / "versions" / kept


def _copy(version: Path, to: Path) -> None:
    (to / "figures").mkdir()
    for path in version.rglob("*"):
        if path.is_file():
            (to / path.relative_to(version)).write_bytes(path.read_bytes())


def test_all_commands_use_the_same_folder_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMILIS_VISION__TASKS_DIR", raising=False)
    assert TrainSettings().tasks_dir() == DEFAULT_TASKS
    monkeypatch.setenv("SIMILIS_VISION__TASKS_DIR", "configured")
    assert TrainSettings().tasks_dir() == Path("configured")
    assert TrainSettings().tasks_dir(Path("given")) == Path("given")


def brain_task(card: dict[str, object]) -> Task:
    task = measured_task(Path("none"), "brain-mr").task
    return Task(task.definition, task.head, card)


def test_the_cards_own_fields_say_which_sources_training_never_saw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Names are enough: nothing is drawn on them here.
    for name in ("robex", "sri24", "colin27"):
        (tmp_path / f"{name}.nii.gz").touch()
    monkeypatch.setattr(request_module, "recipe_of", lambda name: BrainMr(tmp_path))
    card = {"data": {"sources": ["robex"], "held_out": ["sri24"]}, "rebuild": "similis train --hold-out colin27"}
    request = EvaluateRequest("brain-mr", studies=4, weaker=False)
    sets = sets_of(request, brain_task(card))
    assert list(sets) == ["Fresh subjects", "Source never seen: sri24"]
    assert {case.source for case in sets["Fresh subjects"]} == {"robex"}
    asked = sets_of(replace(request, hold_out=["colin27"]), brain_task(card))
    assert list(asked) == ["Fresh subjects", "Source never seen: colin27"]
    with pytest.raises(ConfigurationError, match="trained on robex"):
        sets_of(replace(request, hold_out=["robex"]), brain_task(card))
    old = sets_of(request, brain_task({"rebuild": "similis train --hold-out colin27"}))
    assert list(old) == ["Fresh subjects", "Source never seen: colin27"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": Path("x")}, "--labels has no effect without --from"),
        ({"layout": "isic"}, "--layout has no effect without --from"),
        ({"all_cases": True}, "--all has no effect without --from"),
        ({"folder": Path("x"), "hold_out": ["a"]}, "--hold-out has no effect"),
        ({"folder": Path("x"), "weaker": False}, "--no-weaker has no effect"),
        ({"folder": Path("x"), "studies": 10}, "--studies has no effect"),
        ({"folder": Path("x"), "contrast": 2.0}, "--contrast has no effect"),
        ({"folder": Path("x"), "compare_studies": 40}, "--compare-studies has no effect"),
        ({"folder": Path("x"), "layout": "isic", "labels": Path("x")}, "leave out --labels"),
        ({"folder": Path("x"), "all_cases": True, "compare": (Path("x"),)}, "leave out --all"),
        ({"seed": -1}, "--seed must lie"),
        ({"seed": 100_000}, "--seed must lie"),
        ({"contrast": float("nan")}, "--contrast must lie"),
        ({"contrast": 9.0}, "--contrast must lie"),
        ({"studies": 0}, "--studies must lie"),
        ({"draws": 99}, "--bootstraps must lie"),
        ({"strange": -1}, "--strange must lie"),
        ({"compare_studies": -1}, "--compare-studies must lie"),
    ],
)
def test_options_that_cannot_be_or_do_not_matter_are_refused(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        replace(EvaluateRequest("brain-mr"), **changes).options()


@pytest.mark.parametrize(
    "asked",
    [
        EvaluateRequest("brain-mr"),
        EvaluateRequest(
            "brain-mr", studies=20, contrast=2.5, weaker=False, hold_out=["sri24", "a b"], compare_studies=40,
            strange=0, seed=7, draws=200, version="0" * 12 + "-" + "0" * 8,
        ),
        EvaluateRequest("brain-mr", folder=Path("FOLDER"), labels=Path("FILE"), tasks_dir=Path("FOLDER")),
        EvaluateRequest("brain-mr", folder=Path("FOLDER"), layout="isic", all_cases=True),
        EvaluateRequest("brain-mr", folder=Path("FOLDER"), compare=(Path("FOLDER"), Path("FOLDER"))),
    ],
)  # fmt: skip
def test_the_command_again_asks_for_the_same(asked: EvaluateRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    app, seen = typer.Typer(), []
    app.command()(evaluate_command)
    monkeypatch.setattr(
        "services.training.evaluation.command.evaluate",
        lambda request, console: seen.append(request) or SimpleNamespace(report=None),
    )
    monkeypatch.setattr("services.training.evaluation.markdown.report_markdown", lambda report: "")
    ran = CliRunner().invoke(app, shlex.split(asked.command())[2:], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert seen == [asked]
