"""`similis evaluate retrieval TASK`, for the command line to mount. Heavy modules load when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.training.retrieval_evaluation.request import RetrievalRequest
    from shared.vision.retrieval_report import RetrievalReport


def retrieval_command(
    task: Annotated[str, typer.Argument(help="The task's name, such as brain-mr.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for retrieval.json; that of the head itself (SIMILIS_VISION__TASKS_DIR/TASK) for the query "
            "service to read; unset: printed only."
        ),
    ] = None,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="The labelled folder of training; unset: phantoms.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="With --from: a public data set's layout.")] = None,
    labels: Annotated[Path | None, typer.Option(help="With --from: the CSV, as for `similis train`.")] = None,
    tasks_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of tasks; unset: SIMILIS_VISION__TASKS_DIR, else similis-data/tasks. A task that is not "
            "live there is the built-in one."
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of a kept version; unset: the live one.")] = None,
    studies: Annotated[int, typer.Option(help="Fresh phantoms on the sources that training had.")] = 120,
    unseen_studies: Annotated[
        int, typer.Option(help="Fresh phantoms on each source that training never saw; 0: none.")
    ] = 80,
    contrast: Annotated[float, typer.Option(help="Of the phantoms' lesions.")] = 4.0,
    seed: Annotated[int, typer.Option(help="0 to 99,999, of phantoms, bootstrap and random orders.")] = 0,
    bootstraps: Annotated[int, typer.Option(help="Bootstrap samples.")] = 1000,
) -> None:
    """Measure how often a task's nearest cases are of the query's class, by both spaces. Research use only.

    Nothing is changed but what --out names. Phantom results are of phantoms.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from services.training.retrieval_evaluation.markdown import retrieval_markdown
    from services.training.retrieval_evaluation.request import RetrievalRequest
    from shared.errors import ConfigurationError

    request = RetrievalRequest(
        task=task,
        tasks_dir=tasks_dir,
        version=version,
        folder=from_folder,
        labels=labels,
        layout=layout,
        studies=studies,
        unseen_studies=unseen_studies,
        contrast=contrast,
        seed=seed,
        draws=bootstraps,
    )
    console = Console()
    report = evaluate(request, console)
    console.print(Markdown(retrieval_markdown([report])))
    if out is not None:
        try:
            path = report.write(out)
        except OSError as error:
            raise ConfigurationError(f"{out} cannot be written: {error}") from error
        console.print(f"The report is {path}. Research use only.", highlight=False, soft_wrap=True)


def evaluate(request: RetrievalRequest, console: Console) -> RetrievalReport:
    """Measure with progress bars; settings are read from the environment.

    Raises:
        SimilisError: the task, the images or the weights cannot be used.
    """
    from services.training.evaluation.measured_task import measured_task
    from services.training.progress_bars import progress_bars
    from services.training.retrieval_evaluation.evaluate_retrieval import evaluate_retrieval
    from services.training.retrieval_evaluation.request import sets_of
    from services.training.settings import TrainSettings
    from shared.pixels import PixelLimits
    from shared.vision.backbone import load_backbone

    request.options()  # refused before the weights are loaded
    vision = (settings := TrainSettings()).vision
    measured = measured_task(settings.tasks_dir(request.tasks_dir), request.task, request.version)
    task, trained_on = measured.task, measured.trained_on() if request.folder is not None else frozenset()
    console.print(f"Searching by the head {task.head.id} in {measured.folder}", highlight=False, soft_wrap=True)
    sets = sets_of(request, task, trained_on)
    backbone = load_backbone(vision, keep_patches=task.head.lens is not None)
    with progress_bars(console) as advance:
        return evaluate_retrieval(
            task,
            sets,
            backbone,
            request.options(backbone.precision),
            cache_dir=vision.cache_dir,
            limits=PixelLimits.of(vision),
            progress=advance,
        )
