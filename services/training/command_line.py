"""`similis train TASK` and `similis task …`, for the command line to mount. Heavy modules load when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from shared.errors import ConfigurationError

task_app = typer.Typer(help="Versions of tasks: which head is live.", no_args_is_help=True)

Grouping = Literal["patient", "source"]
Aim = Literal["accuracy", "sensitivity", "specificity"]
TasksDir = Annotated[
    Path | None,
    typer.Option(help="Folder of tasks; unset: SIMILIS_VISION__TASKS_DIR, else similis-data/tasks."),
]
TaskArgument = Annotated[str, typer.Argument(help="The task's name, such as brain-mr.")]


def train_command(
    task: TaskArgument,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="Folder of DICOM, PNG and JPEG: class folders, or labels.csv in it.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="With --from: a public data set's layout, see docs/data.md.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV: path, study or sop; label; patient, split, sex, age if known. See --archive."),
    ] = None,
    archive: Annotated[
        bool,
        typer.Option(
            "--archive",
            help="Train on what is archived (SIMILIS_ARCHIVE__*): labels by --labels, else those that people gave "
            "through the API, see docs/labels.md.",
        ),
    ] = False,
    phantom: Annotated[bool, typer.Option("--phantom", help="Train on the task's phantoms.")] = False,
    definition: Annotated[
        Path | None, typer.Option(help="A task.yaml; unset: the task's own, or its phantom recipe's.")
    ] = None,
    tasks_dir: TasksDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the files into this folder instead of keeping a version.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="0 to 99,999, of splits, folds and phantoms: the same, an equivalent head.")
    ] = 0,
    sensitivity: Annotated[float | None, typer.Option(help="Operating point: of the answered ill studies.")] = None,
    specificity: Annotated[float | None, typer.Option(help="Operating point: of the answered healthy studies.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="Operating point: of all answered; the default.")] = None,
    group_by: Annotated[
        Grouping, typer.Option(help="Cross-validation leaves out together: patients, or sources.")
    ] = "patient",
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Move leaking cases into one split instead of refusing.")
    ] = False,
    subjects: Annotated[int, typer.Option(help="With --phantom: virtual subjects.")] = 400,
    contrast: Annotated[float, typer.Option(help="With --phantom: of the lesions; 4 is clearly visible.")] = 4.0,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="With --phantom: a source that is for measuring alone; may be repeated.")
    ] = None,
    held_out_subjects: Annotated[int, typer.Option(help="With --hold-out: subjects on each such source.")] = 80,
    licence: Annotated[str, typer.Option(help="Of the head, for its card.")] = "not stated",
    shortcuts: Annotated[bool, typer.Option(help="Tell in the card what raw pixels and histograms reach.")] = True,
) -> None:
    """Train a candidate on frozen features. Nothing goes live before `similis task promote`. Research use only."""
    from services.training.request import Request
    from services.training.task_commands import train

    targets: dict[Aim, float | None] = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "accuracy": accuracy,
    }
    given = [(aim, target) for aim, target in targets.items() if target is not None]
    if len(given) > 1:
        raise ConfigurationError("one of --sensitivity, --specificity and --accuracy is the operating point")
    aim, target = given[0] if given else ("accuracy", 0.9)
    train(
        Request(
            task=task,
            folder=from_folder,
            layout=layout,
            labels=labels,
            archive=archive,
            phantom=phantom,
            definition=definition,
            tasks_dir=_tasks_dir(tasks_dir),
            out=out,
            seed=seed,
            aim=aim,
            target=target,
            grouped_by=group_by,
            drop_duplicates=drop_duplicates,
            subjects=subjects,
            contrast=contrast,
            hold_out=tuple(hold_out or ()),
            held_out_subjects=held_out_subjects,
            licence=licence,
            shortcuts=shortcuts,
        )
    )


@task_app.command("list")
def list_command(tasks_dir: TasksDir = None) -> None:
    """Show every task's versions, the live one, and what keeps a version from going live."""
    from services.training.task_commands import list_versions

    list_versions(_tasks_dir(tasks_dir))


@task_app.command("promote")
def promote_command(
    task: TaskArgument,
    version: Annotated[str, typer.Argument(help="As `similis task list` shows it.")],
    tasks_dir: TasksDir = None,
) -> None:
    """Make a kept version live; services load it when they start next."""
    from services.training.task_commands import promote_version

    promote_version(_tasks_dir(tasks_dir), task, version)


@task_app.command("rollback")
def rollback_command(task: TaskArgument, tasks_dir: TasksDir = None) -> None:
    """Make live what was live before the last promotion."""
    from services.training.task_commands import roll_back

    roll_back(_tasks_dir(tasks_dir), task)


def _tasks_dir(given: Path | None) -> Path:
    from services.training.settings import TrainSettings

    return TrainSettings().tasks_dir(given)
