"""`similis evaluate explain TASK`, and the group it stands in. Heavy modules load when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from services.training.evaluation.command import evaluate_command
from services.training.retrieval_evaluation.command import retrieval_command

if TYPE_CHECKING:
    from rich.console import Console

    from services.training.explain_evaluation.evaluate_maps import EvaluatedMaps
    from services.training.explain_evaluation.request import ExplainRequest


class _TaskFirst(TyperGroup):
    """`similis evaluate brain-mr` is short for `similis evaluate task brain-mr`: the name of a task is no command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] != "--help" and args[0] not in self.commands:
            args = ["task", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


evaluate_app = typer.Typer(
    cls=_TaskFirst,
    help="Measure a task's head (similis evaluate TASK), its explanations (similis evaluate explain TASK) or its "
    "search (similis evaluate retrieval TASK).",
    no_args_is_help=True,
)
evaluate_app.command("task")(evaluate_command)
evaluate_app.command("retrieval")(retrieval_command)


@evaluate_app.command("explain")
def explain_command(
    task: Annotated[str, typer.Argument(help="The task's name, such as brain-mr.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for explain.json, explain.md, explain.png and overlays.png; unset: printed only."),
    ] = None,
    tasks_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of tasks; unset: SIMILIS_VISION__TASKS_DIR, else similis-data/tasks. A task that is not "
            "live there is the built-in one."
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of a kept version; unset: the live one.")] = None,
    studies: Annotated[int, typer.Option(help="Fresh phantoms with a lesion, one frame of each.")] = 12,
    contrast: Annotated[float, typer.Option(help="Of the phantoms' lesions.")] = 4.0,
    source: Annotated[
        list[str] | None, typer.Option(help="What phantoms are built on; may be repeated; unset: the recipe's choice.")
    ] = None,
    delta: Annotated[
        list[float] | None, typer.Option(help="Of ViT-CX; may be repeated; unset: .1, the authors', and .05.")
    ] = None,
    rise_masks: Annotated[int, typer.Option(help="Of RISE, which takes a forward pass for each; 0: without it.")] = 500,
    mode: Annotated[
        Literal["auto", "exact", "two-pass", "adaptive", "one-pass"], typer.Option(help="How ViT-CX is run.")
    ] = "auto",
    fill: Annotated[
        Literal["mean", "black"], typer.Option(help="What stands where a mask of ViT-CX or RISE removes the image.")
    ] = "mean",
    reference_maps: Annotated[
        int,
        typer.Option(
            help="Instead: keep the figures of so many random-weight networks' maps beside the head; 19 or more."
        ),
    ] = 0,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="With --reference-maps: labelled images; unset: phantoms.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="With --from: a public data set's layout.")] = None,
    labels: Annotated[Path | None, typer.Option(help="With --from: the CSV, as for `similis train`.")] = None,
    seed: Annotated[int, typer.Option(help="0 to 99,999, of phantoms, noise and bootstrap.")] = 0,
    bootstraps: Annotated[int, typer.Option(help="Bootstrap samples.")] = 1000,
) -> None:
    """Measure a task's saliency maps on phantoms with known lesions, beside other methods. Research use only.

    Takes seconds to minutes a frame. With --reference-maps it writes explain-reference.json into the version's
    folder instead, so that the explainer can tell maps that are not reliable. Otherwise nothing is changed.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from services.training.explain_evaluation.markdown import explain_markdown
    from services.training.explain_evaluation.request import ExplainRequest

    request = ExplainRequest(
        task=task,
        tasks_dir=tasks_dir,
        version=version,
        studies=studies,
        contrast=contrast,
        source=tuple(source or ()),
        deltas=tuple(delta or (0.1, 0.05)),
        rise_masks=rise_masks,
        mode=mode,
        fill=fill,
        seed=seed,
        draws=bootstraps,
        reference_maps=reference_maps,
        folder=from_folder,
        labels=labels,
        layout=layout,
    )
    console = Console()
    if reference_maps:
        keep_reference(request, console)
        return
    evaluated = evaluate(request, console)
    console.print(Markdown(explain_markdown(evaluated.report)))
    if out is not None:
        evaluated.write(out, explain_markdown(evaluated.report, figure="explain.png"))
        console.print(f"The report is in {out}. Research use only.")


def evaluate(request: ExplainRequest, console: Console) -> EvaluatedMaps:
    """Measure with progress bars; settings are read from the environment.

    Raises:
        SimilisError: the task, the images or the weights cannot be used.
    """
    from services.training.evaluation.measured_task import measured_task
    from services.training.explain_evaluation.evaluate_maps import evaluate_maps
    from services.training.explain_evaluation.request import lesion_cases
    from services.training.progress_bars import progress_bars
    from services.training.settings import TrainSettings
    from shared.pixels import PixelLimits
    from shared.vision.backbone import load_backbone

    settings, options = TrainSettings(), request.options()
    measured = measured_task(settings.tasks_dir(request.tasks_dir), request.task, request.version)
    console.print(f"Maps of the head {measured.task.head.id} in {measured.folder}", highlight=False, soft_wrap=True)
    cases = lesion_cases(request, measured.task)
    backbone = load_backbone(settings.vision, keep_patches=measured.task.head.lens is not None)
    with progress_bars(console) as advance:
        return evaluate_maps(
            measured.task, cases, backbone, options, limits=PixelLimits.of(settings.vision), progress=advance
        )


def keep_reference(request: ExplainRequest, console: Console) -> None:
    """Make the random-weight reference and write it beside the head.

    Raises:
        SimilisError: the task, the images or the weights cannot be used.
        ConfigurationError: the version's folder cannot be written.
    """
    from services.training.evaluation.measured_task import measured_task
    from services.training.explain_evaluation.range_reference import range_reference
    from services.training.explain_evaluation.request import reference_cases
    from services.training.progress_bars import progress_bars
    from services.training.settings import TrainSettings
    from shared.errors import ConfigurationError
    from shared.pixels import PixelLimits
    from shared.saliency.fills import FILLS
    from shared.saliency.vit_cx import Parameters
    from shared.vision.backbone import load_backbone
    from shared.vision.explain_reference import LEAST_MAPS, REFERENCE_FILE, write_reference

    settings, options = TrainSettings(), request.options()
    measured = measured_task(settings.tasks_dir(request.tasks_dir), request.task, request.version)
    cases, images = reference_cases(request, measured.task)
    backbone = load_backbone(settings.vision, keep_patches=measured.task.head.lens is not None)
    with progress_bars(console) as advance:
        reference = range_reference(
            measured.task,
            cases,
            backbone,
            images=images,
            seed=request.seed,
            parameters=Parameters(delta=options.deltas[0], fill=FILLS[options.fill]),
            faithfulness=options.faithfulness,
            limits=PixelLimits.of(settings.vision),
            progress=advance,
        )
    path = measured.folder / REFERENCE_FILE
    try:
        write_reference(path, reference)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}") from error
    asked = (
        f"{LEAST_MAPS} are the fewest that tell: maps are marked unknown."
        if reference.limit is None
        else f"a map must lead chance by more than {reference.limit:.3f}."
    )
    console.print(
        f"{reference.n} maps of random-weight networks: {asked}"
        f"\nKept in {path}; services read it at their next start. Research use only.",
        highlight=False,
        soft_wrap=True,
    )
