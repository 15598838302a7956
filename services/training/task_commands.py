"""What `similis train` and `similis task …` do, told on the terminal with progress bars."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from services.training.progress_bars import progress_bars
from services.training.request import Request, dataset_of, definition_of, held_out_of
from services.training.settings import TrainSettings
from services.training.versions import keep_candidate, promote, rollback, task_folders, versions_of
from shared.errors import ConfigurationError
from shared.pixels import PixelLimits
from shared.vision.live_version import LIVE_FILE
from shared.vision.weights import backbone_id


def train(request: Request) -> None:
    """Train a candidate, keep it, and print its card and how to make it live."""
    from services.training.train_task import train_task
    from shared.vision.backbone import load_backbone

    console, settings = Console(), TrainSettings()
    options, definition = request.options(), definition_of(request)
    if request.out is not None and (request.out / LIVE_FILE).exists():
        raise ConfigurationError(f"{request.out} has promoted versions: leave out --out, then promote the candidate")
    dataset = dataset_of(request, definition, settings)
    with progress_bars(console) as advance:
        trained = train_task(
            definition,
            dataset,
            load_backbone(settings.vision),
            options,
            held_out=held_out_of(request),
            cache_dir=settings.vision.cache_dir,
            limits=PixelLimits.of(settings.vision),
            progress=advance,
        )
    console.print(Markdown(trained.card.markdown()))
    if request.out is not None:
        trained.write(request.out)
        console.print(f"Head and card are in {request.out}. Research use only.")
        return
    folder = request.tasks_dir / request.task
    folder.mkdir(parents=True, exist_ok=True)
    version = keep_candidate(folder, trained.write)
    console.print(
        f"Kept as version {version} in {folder}; what is live has not changed. Read the card, then:\n"
        f"similis task promote {request.task} {version}",
        highlight=False,
        soft_wrap=True,
    )


def list_versions(tasks_dir: Path) -> None:
    """Print every task's versions."""
    backbone = backbone_id(TrainSettings().vision)
    table = Table("task", "version", "live", "study accuracy (test)", "may go live")
    for folder in task_folders(tasks_dir):
        for kept in versions_of(folder, backbone):
            table.add_row(
                folder.name,
                kept.version or "as installed",
                "live" if kept.is_live else "",
                kept.accuracy or "-",
                kept.problem or "yes",
            )
    Console().print(table if table.row_count else f"{tasks_dir} holds no task")


def promote_version(tasks_dir: Path, task: str, version: str) -> None:
    """Make a version live and say so."""
    settings = TrainSettings()
    live = promote(_folder(tasks_dir, task), version, backbone=backbone_id(settings.vision))
    _say(f"{task} {live.version} is live from the services' next start on. Research use only.", settings, tasks_dir)


def roll_back(tasks_dir: Path, task: str) -> None:
    """Make live what was live before and say so."""
    settings = TrainSettings()
    live = rollback(_folder(tasks_dir, task), backbone=backbone_id(settings.vision))
    _say(f"{task} is back at {live.version or 'the version as installed'}.", settings, tasks_dir)


def _folder(tasks_dir: Path, task: str) -> Path:
    folders = {folder.name: folder for folder in task_folders(tasks_dir)}
    if task not in folders:
        raise ConfigurationError(f"{tasks_dir} has no task {task}: there are {', '.join(folders) or 'none'}")
    return folders[task]


def _say(what: str, settings: TrainSettings, tasks_dir: Path) -> None:
    console = Console()
    console.print(what, highlight=False, soft_wrap=True)
    used = settings.vision.tasks_dir
    if used is None or used.resolve() != tasks_dir.resolve():
        console.print(
            f"The services read it with SIMILIS_VISION__TASKS_DIR={tasks_dir.resolve()}. That folder replaces "
            "the tasks that come with Similis: those that are not in it are not loaded.",
            highlight=False,
            soft_wrap=True,
        )
