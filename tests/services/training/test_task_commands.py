"""The command line: from a folder of pictures to a live task and back."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from labelled_images import DEFINITION, png, write_class_folders
from PIL import Image
from typer.testing import CliRunner

from services.training.command_line import task_app, train_command
from services.training.evaluation.command import evaluate_command
from services.training.request import Request, definition_of
from shared.errors import ConfigurationError
from shared.settings import VisionSettings
from shared.vision.tasks import load_task, load_tasks
from shared.vision.weights import backbone_id

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "vision"))

from small_models import save_small

app = typer.Typer()
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.add_typer(task_app, name="task")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tasks, with a small random backbone set for all commands."""
    settings = {
        "BACKBONE": str(save_small(tmp_path / "small")),
        "INPUT_SIZE_PX": "28",
        "DEVICE": "cpu",
        "CACHE_DIR": str(tmp_path / "cache"),
        "TASKS_DIR": str(tmp_path / "tasks"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"SIMILIS_VISION__{name}", value)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "tasks"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Of a brightness that tells the class: random weights see little else, and a useless head is not promoted."""
    folder = write_class_folders(tmp_path / "images", 15)
    for share, label in ((0.3, "normal"), (0.6, "spot"), (1.0, "bar")):
        for path in (folder / label).iterdir():
            path.write_bytes(png((np.asarray(Image.open(path)) * share).astype(np.uint8)))
    return folder


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.yaml"
    path.write_text(yaml.safe_dump(DEFINITION.model_dump(mode="json", exclude_none=True)))
    return path


def run(*words: object) -> str:
    ran = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_a_task_is_trained_promoted_listed_and_rolled_back(tasks: Path, images: Path, definition: Path):
    told = run(
        "train", "shapes", "--from", images, "--definition", definition, "--sensitivity", "0.9", "--no-shortcuts"
    )
    version = told.rpartition("similis task promote shapes ")[2].split()[0]
    assert "what is live has not changed" in told
    assert "Research use only" in told
    assert list((tasks / "shapes").glob("task.yaml")) == []
    assert version in run("task", "list")
    run("task", "promote", "shapes", version)
    assert "live" in run("task", "list")
    backbone = backbone_id(
        VisionSettings(backbone=str(tasks.parent / "small"), input_size_px=28, cache_dir=tasks.parent / "cache")
    )
    (task,) = load_tasks(tasks, backbone)
    assert task.card["operating_point"]["aim"] == "sensitivity"
    # The definition is the live task's from now on; a second head, then back to the first.
    told = run("train", "shapes", "--from", images, "--seed", "1", "--no-shortcuts")
    second = told.rpartition("similis task promote shapes ")[2].split()[0]
    run("task", "promote", "shapes", second)
    assert load_task(tasks / "shapes").head.id != task.head.id
    assert f"is back at {version}" in run("task", "rollback", "shapes")
    assert load_task(tasks / "shapes").head.id == task.head.id


def test_out_writes_the_files_and_keeps_no_version(tasks: Path, images: Path, definition: Path, tmp_path: Path):
    out = tmp_path / "out" / "shapes"
    run("train", "shapes", "--from", images, "--definition", definition, "--out", out, "--no-shortcuts")
    assert not tasks.exists()
    assert (
        load_task(out).card["rebuild"]
        == "similis train shapes --from FOLDER --definition FILE --seed 0 --accuracy 0.9 --no-shortcuts"
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--sensitivity", "0.9", "--accuracy", "0.9", "--phantom"], "operating point"),
        (["--accuracy", "90", "--phantom"], "must lie between 0 and 1"),
        (["--from", "."], "there is no task unheard-of"),
        (["--phantom"], "no phantom recipe"),
        (["--phantom", "--labels", "x.csv"], "--labels has no effect"),
        (["--phantom", "--layout", "isic"], "--layout has no effect without --from"),
        (["--archive", "--layout", "isic", "--labels", "x.csv"], "--layout has no effect without --from"),
        (["--from", ".", "--layout", "isic", "--labels", "x.csv"], "leave out --labels"),
        (["--from", ".", "--subjects", "80"], "--subjects has no effect without --phantom"),
        (["--from", ".", "--hold-out", "a"], "--hold-out has no effect without --phantom"),
        (["--from", ".", "--contrast", "2"], "--contrast has no effect without --phantom"),
        (["--from", ".", "--group-by", "source"], "--group-by source has no effect without --phantom"),
        (["--phantom", "--held-out-subjects", "8"], "--held-out-subjects has no effect without --hold-out"),
        (["--phantom", "--hold-out", "a", "--held-out-subjects", "0"], "--held-out-subjects must lie"),
        (["--phantom", "--hold-out", "a", "--held-out-subjects", "1000000"], "--held-out-subjects must lie"),
        (["--from", ".", "--seed", "-1"], "--seed must lie"),
        (["--from", ".", "--seed", "100000"], "--seed must lie"),
        (["--phantom", "--contrast", "nan"], "--contrast must lie"),
        (["--phantom", "--contrast", "0"], "--contrast must lie"),
        (["--phantom", "--contrast", "8.1"], "--contrast must lie"),
    ],
)
def test_contradicting_options_are_errors(tasks: Path, words, what):
    with pytest.raises(ConfigurationError, match=what):
        run("train", "unheard-of", *words)


def test_a_candidate_is_measured_on_its_own_test_split_before_it_goes_live(
    tasks: Path, images: Path, definition: Path, tmp_path: Path
):
    told = run("train", "shapes", "--from", images, "--definition", definition, "--seed", "4", "--no-shortcuts")
    version = told.rpartition("similis task promote shapes ")[2].split()[0]
    options = ("--strange", "0", "--bootstraps", "100", "--out", tmp_path / "out")
    told = run("evaluate", "shapes", "--from", images, "--version", version, *options)
    assert f"Measuring the head {version.partition('-')[0]}" in told.replace("shapes@", "")
    assert str(tasks / "shapes" / "versions" / version) in told
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    card = json.loads((tasks / "shapes" / "versions" / version / "model-card.json").read_text())
    (measured,), test = report["sets"], card["evaluations"][0]["study"]
    assert measured["title"] == "Test split of a folder"  # training's seed, so that nothing had to be left out
    assert (measured["metrics"]["n"], measured["metrics"]["confusion"]) == (test["n"], test["confusion"])
    with pytest.raises(ConfigurationError, match="trained this head"):
        run("evaluate", "shapes", "--from", images, "--version", version, "--all", *options)


def test_a_head_that_knows_nothing_is_kept_and_not_promoted(tasks: Path, definition: Path, tmp_path: Path):
    blind = write_class_folders(tmp_path / "images", 15)  # random weights do not tell these shapes apart
    told = run("train", "shapes", "--from", blind, "--definition", definition, "--no-shortcuts")
    version = told.rpartition("similis task promote shapes ")[2].split()[0]
    with pytest.raises(ConfigurationError, match=r"ended at a limit|classes' frequencies alone"):
        run("task", "promote", "shapes", version)


def test_an_origin_is_needed_and_only_one(tasks: Path, definition: Path):
    for words in ([], ["--archive", "--phantom"]):
        with pytest.raises(ConfigurationError, match=r"one of --from|no phantom recipe"):
            run("train", "shapes", "--definition", definition, *words)
    with pytest.raises(ConfigurationError, match="is of the task shapes, not other"):
        run("train", "other", "--definition", definition, "--from", ".")


def test_an_archive_without_labels_says_how_to_give_some(
    tasks: Path, definition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SIMILIS_ARCHIVE__URL", str(tmp_path / "archive"))
    with pytest.raises(ConfigurationError, match=r"no archived study has a label for shapes.*docs/labels\.md"):
        run("train", "shapes", "--definition", definition, "--archive")


def test_an_unknown_task_cannot_be_promoted(tasks: Path):
    with pytest.raises(ConfigurationError, match="has no task shapes"):
        run("task", "promote", "shapes", "0" * 12 + "-" + "0" * 8)
    assert "holds no task" in run("task", "list")


def test_the_rebuild_command_holds_no_path():
    request = Request("shapes", Path("/data/Smith/tasks"), folder=Path("/data/Smith"), labels=Path("/data/Smith.csv"))
    assert request.rebuild() == "similis train shapes --from FOLDER --labels FILE --seed 0 --accuracy 0.9"


def test_the_rebuild_command_carries_whatever_is_not_the_default():
    request = Request(
        "brain-mr",
        Path("tasks"),
        phantom=True,
        seed=7,
        aim="sensitivity",
        target=0.95,
        grouped_by="source",
        drop_duplicates=True,
        subjects=120,
        contrast=2.5,
        hold_out=("sri24", "colin27"),
        held_out_subjects=12,
        licence="CC BY 4.0",
        shortcuts=False,
    )
    words = shlex.split(request.rebuild())[2:]
    parsed: list[Request] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.training.task_commands.train", parsed.append)
        run("train", *words)
    assert parsed == [replace(request, tasks_dir=parsed[0].tasks_dir)]


def test_a_candidate_of_a_built_in_task_does_not_hide_its_definition(tmp_path: Path):
    (tmp_path / "brain-mr" / "versions").mkdir(parents=True)
    assert definition_of(Request("brain-mr", tmp_path, folder=tmp_path)).name == "brain-mr"


def test_promoting_tells_that_the_folder_replaces_the_built_in_tasks(tasks: Path, images: Path, definition: Path):
    other = tasks.parent / "other"
    told = run("train", "shapes", "--from", images, "--definition", definition, "--tasks-dir", other, "--no-shortcuts")
    version = told.rpartition("similis task promote shapes ")[2].split()[0]
    assert "replaces the tasks that come with Similis" in run(
        "task", "promote", "shapes", version, "--tasks-dir", other
    )
