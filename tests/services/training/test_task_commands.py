"""The command line: from a folder of pictures to a live task and back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
import yaml
from labelled_images import DEFINITION, write_class_folders
from typer.testing import CliRunner

from services.training.command_line import task_app, train_command
from services.training.request import Request
from shared.errors import ConfigurationError
from shared.settings import VisionSettings
from shared.vision.tasks import load_task, load_tasks
from shared.vision.weights import backbone_id

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "vision"))

from small_models import save_small

app = typer.Typer()
app.command("train")(train_command)
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
    return write_class_folders(tmp_path / "images", 15)


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
        load_task(out).card["rebuild"] == "similis train shapes --from FOLDER --definition FILE --seed 0 --accuracy 0.9"
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--sensitivity", "0.9", "--accuracy", "0.9", "--phantom"], "operating point"),
        (["--accuracy", "90", "--phantom"], "must lie between 0 and 1"),
        (["--from", "."], "there is no task unheard-of"),
        (["--phantom"], "no phantom recipe"),
    ],
)
def test_contradicting_options_are_errors(tasks: Path, words, what):
    with pytest.raises(ConfigurationError, match=what):
        run("train", "unheard-of", *words)


def test_an_origin_is_needed_and_only_one(tasks: Path, definition: Path):
    for words in ([], ["--archive", "--phantom"], ["--archive"]):
        with pytest.raises(ConfigurationError, match=r"one of --from|needs --labels|no phantom recipe"):
            run("train", "shapes", "--definition", definition, *words)
    with pytest.raises(ConfigurationError, match="is of the task shapes, not other"):
        run("train", "other", "--definition", definition, "--from", ".")


def test_an_unknown_task_cannot_be_promoted(tasks: Path):
    with pytest.raises(ConfigurationError, match="has no task shapes"):
        run("task", "promote", "shapes", "0" * 12 + "-" + "0" * 8)
    assert "holds no task" in run("task", "list")


def test_the_rebuild_command_holds_no_path():
    request = Request("shapes", Path("/data/Smith/tasks"), folder=Path("/data/Smith"), labels=Path("/data/Smith.csv"))
    assert request.rebuild() == "similis train shapes --from FOLDER --labels FILE --seed 0 --accuracy 0.9"
