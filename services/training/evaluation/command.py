"""`similis evaluate TASK`, for the command line to mount. Heavy modules load when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.training.evaluation.evaluate_task import Evaluated
    from services.training.evaluation.request import EvaluateRequest


def evaluate_command(
    task: Annotated[str, typer.Argument(help="The task's name, such as brain-mr.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.json, report.md, figures.png and curves.json (beside the model card the validation "
            "view shows it); unset: printed only."
        ),
    ] = None,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="Labelled folder, its test split; unset: fresh phantoms.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="With --from: a public data set's layout, see docs/data.md.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="With --from: the CSV, as for `similis train`.")] = None,
    all_cases: Annotated[
        bool, typer.Option("--all", help="With --from, of a folder from elsewhere: all its cases are test cases.")
    ] = False,
    tasks_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of tasks; unset: SIMILIS_VISION__TASKS_DIR, else similis-data/tasks. A task that is not "
            "live there is the built-in one."
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Measure this kept version, before `similis task promote`; unset: the live one.")
    ] = None,
    studies: Annotated[int, typer.Option(help="Phantoms in each set.")] = 160,
    contrast: Annotated[float, typer.Option(help="Of the phantoms' lesions.")] = 4.0,
    weaker: Annotated[bool, typer.Option(help="Measure at half the contrast too.")] = True,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="A source never seen in training; unset: those the head's card names.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Hugging Face folder to fit the same probe on; may be repeated.")
    ] = None,
    compare_studies: Annotated[
        int, typer.Option(help="Training phantoms of the comparison, half as many tests; 0: no comparison.")
    ] = 0,
    strange: Annotated[int, typer.Option(help="Images of each out-of-distribution kind; 0: none.")] = 40,
    seed: Annotated[int, typer.Option(help="0 to 99,999, of phantoms and bootstrap: the same, the same report.")] = 0,
    bootstraps: Annotated[int, typer.Option(help="Bootstrap samples.")] = 1000,
) -> None:
    """Measure a task's head: accuracy, calibration, selective risk, subgroups, strange images. Research use only.

    Nothing is changed. Phantom results are of phantoms.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from services.training.evaluation.markdown import report_markdown
    from services.training.evaluation.request import EvaluateRequest

    request = EvaluateRequest(
        task=task,
        tasks_dir=tasks_dir,
        folder=from_folder,
        labels=labels,
        version=version,
        layout=layout,
        all_cases=all_cases,
        studies=studies,
        weaker=weaker,
        contrast=contrast,
        hold_out=hold_out or None,
        compare=tuple(compare or ()),
        compare_studies=compare_studies,
        strange=strange,
        seed=seed,
        draws=bootstraps,
    )
    console = Console()
    evaluated = evaluate(request, console)
    console.print(Markdown(report_markdown(evaluated.report)))
    if out is not None:
        evaluated.write(out, report_markdown(evaluated.report, figure="figures.png"))
        console.print(f"The report is in {out}. Research use only.")


def evaluate(request: EvaluateRequest, console: Console) -> Evaluated:
    """Measure with progress bars; settings are read from the environment.

    Raises:
        SimilisError: the task, the images or the weights cannot be used.
    """
    from services.training.evaluation.evaluate_task import evaluate_task
    from services.training.evaluation.measured_task import measured_task
    from services.training.evaluation.request import comparison_of, sets_of
    from services.training.progress_bars import progress_bars
    from services.training.settings import TrainSettings
    from shared.pixels import PixelLimits
    from shared.vision.backbone import load_backbone

    settings, options = TrainSettings(), request.options()
    vision = settings.vision
    measured = measured_task(settings.tasks_dir(request.tasks_dir), request.task, request.version)
    task, trained_on = measured.task, measured.trained_on() if request.folder is not None else frozenset()
    console.print(f"Measuring the head {task.head.id} in {measured.folder}", highlight=False, soft_wrap=True)
    sets, comparison = sets_of(request, task, trained_on), comparison_of(request, task, vision, trained_on)
    with progress_bars(console) as advance:
        return evaluate_task(
            task,
            sets,
            load_backbone(vision, keep_patches=task.head.lens is not None),
            options,
            comparison=comparison,
            cache_dir=vision.cache_dir,
            limits=PixelLimits.of(vision),
            progress=advance,
        )
