"""`similis reindex`: index every study by another backbone, let searches change to it, drop what is left behind."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from services.embedder.settings import EmbedderSettings
from shared.errors import ConfigurationError
from shared.settings import VisionSettings

if TYPE_CHECKING:
    from services.embedder.reindex import Progress, Reindex, Report
    from shared.vector_index.port import Aliases

NICENESS: Final = 10
TELL_EVERY_S: Final = 5.0
MISSING_TOLD: Final = 10

reindex_app = typer.Typer(help="Change the backbone: index all studies by another one, switch, drop the old.")

To = Annotated[str | None, typer.Option("--to", help="As SIMILIS_VISION__BACKBONE; unset: SIMILIS_NEXT__BACKBONE.")]
Revision = Annotated[str | None, typer.Option(help="With a hub id: the commit to pin.")]


@reindex_app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    to: To = None,
    revision: Revision = None,
    switch: Annotated[bool, typer.Option("--switch", help="If nothing is missing, let searches change to it.")] = False,
    pause_s: Annotated[float, typer.Option(min=0.0, help="Rest after each study that was written.")] = 0.0,
) -> None:
    """Index all judged studies by another backbone, beside the running services. What is there is skipped."""
    if context.invoked_subcommand is not None:
        return
    os.nice(NICENESS)
    settings = EmbedderSettings()
    with _opened(settings, _named(settings, to, revision), decodes=True) as reindex:
        reindex.pause_s, reindex.on_progress = pause_s, _Told()
        _finish(settings, reindex, reindex(), switch=switch)


@reindex_app.command("switch")
def switch_command(
    to: To = None,
    revision: Revision = None,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Also if studies are missing: they cannot be found then.")
    ] = False,
) -> None:
    """Check that nothing is missing and let searches change to a backbone; also back to the old one."""
    settings = EmbedderSettings()
    with _opened(settings, _named(settings, to, revision), decodes=False) as reindex:
        _finish(settings, reindex, reindex.verify(), switch=True, incomplete=incomplete)


@reindex_app.command()
def status() -> None:
    """Print which collection is searched, and which there are."""
    with _aliases(EmbedderSettings()) as aliases:
        from shared.vector_index.aliases import LIVE_ALIAS

        typer.echo(f"live  {aliases.get(LIVE_ALIAS) or 'not switched yet: that of SIMILIS_VISION__BACKBONE'}")
        for name in aliases.collections():
            typer.echo(name)


@reindex_app.command()
def drop(
    backbone: Annotated[str, typer.Option(help="The backbone whose collections go, as SIMILIS_VISION__BACKBONE.")],
    revision: Revision = None,
    tasks_dir: Annotated[Path | None, typer.Option(help="Tasks whose heads read it: their spaces go, too.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a backbone's collections for good. Refused while a setting names it or searches use it."""
    from shared.vector_index import Level, collection_name, space_collection_name
    from shared.vector_index.aliases import LIVE_ALIAS
    from shared.vision.tasks import load_tasks
    from shared.vision.weights import backbone_id

    settings = EmbedderSettings()
    gone = backbone_id(_named(settings, backbone, revision))
    used = [settings.vision, settings.next.vision(settings.vision)]
    if any(vision is not None and backbone_id(vision) == gone for vision in used):
        raise ConfigurationError(f"{gone} is named by SIMILIS_VISION__BACKBONE or SIMILIS_NEXT__BACKBONE")
    wanted = {collection_name(gone, level) for level in get_args(Level)}
    wanted |= {space_collection_name(task.head.id) for task in load_tasks(tasks_dir, gone)}
    with _aliases(settings) as aliases:
        if aliases.get(LIVE_ALIAS) in wanted:
            raise ConfigurationError(f"{gone} is searched: switch to another backbone first")
        names = sorted(wanted & set(aliases.collections()))
        if not names:
            raise ConfigurationError(f"there is no collection of {gone}")
        if not yes:
            typer.confirm(f"Remove {', '.join(names)}?", abort=True)
        for name in names:
            aliases.drop(name)
            typer.echo(f"removed {name}")


def _named(settings: EmbedderSettings, name: str | None, revision: str | None) -> VisionSettings:
    """A backbone's settings: with the pins of the section that names it, if one does."""
    known = [settings.vision, settings.next.vision(settings.vision)]
    wanted = name or settings.next.backbone
    if wanted is None:
        raise ConfigurationError("which backbone? give --to, or set SIMILIS_NEXT__BACKBONE")
    for vision in known:
        if vision is not None and vision.backbone == wanted and revision in (None, vision.revision):
            return vision
    pins = {"revision": revision, "weights_sha256": None, "tasks_dir": None}
    return settings.vision.model_copy(update={"backbone": wanted, **pins})


@contextlib.contextmanager
def _opened(settings: EmbedderSettings, vision: VisionSettings, *, decodes: bool) -> Iterator[Reindex]:
    """The step, its model loaded; without `decodes` only to verify."""
    from services.embedder.app import open_decoder
    from services.embedder.indexes import close_collections
    from services.embedder.reindex import Reindex
    from services.embedder.second_backbone import open_second
    from shared.archive import open_archive
    from shared.pixels import PixelLimits
    from shared.pixels.pool_frames import DecodeInProcess
    from shared.vision.tasks import load_tasks
    from shared.vision.weights import backbone_id

    archive, limits = open_archive(settings.archive), PixelLimits.of(vision)
    tasks = load_tasks(settings.vision.tasks_dir, backbone_id(settings.vision))
    with contextlib.ExitStack() as stack:
        size_px = vision.input_size_px
        decoder = open_decoder(settings.embedder, size_px, limits) if decodes else DecodeInProcess(size_px, limits)
        stack.callback(decoder.close)
        second = open_second(
            settings,
            vision,
            archive,
            tasks,
            decoder,
            on_progress=_nothing,
            check_stop=_nothing,
            on_failure=_nothing,
        )
        stack.callback(close_collections, second.index, second.derived)
        stack.callback(second.close)
        yield Reindex(archive, second)


@contextlib.contextmanager
def _aliases(settings: EmbedderSettings) -> Iterator[Aliases]:
    from shared.vector_index.aliases import open_aliases

    with contextlib.closing(open_aliases(settings.qdrant)) as aliases:
        yield aliases


def _finish(
    settings: EmbedderSettings, reindex: Reindex, report: Report, *, switch: bool, incomplete: bool = False
) -> None:
    """Tell what is there and switch if that was asked for; exit 1 if something is missing."""
    from shared.vector_index import collection_name
    from shared.vector_index.aliases import LIVE_ALIAS

    backbone = reindex.second.encoder.id
    typer.echo(
        f"{backbone}: {report.there} studies indexed ({reindex.second.index.count()} frames), {len(report.missing)} "
        f"missing, {report.unjudged} not judged yet"
    )
    for study in report.missing[:MISSING_TOLD]:
        typer.echo(f"missing: {study}", err=True)
    if report.missing and not incomplete:
        typer.echo("not complete" + (": searches were not switched" if switch else ""), err=True)
        raise typer.Exit(1)
    if switch:
        with _aliases(settings) as aliases:
            aliases.switch(LIVE_ALIAS, collection_name(backbone))
        typer.echo(f"searches change to {backbone}. Research use only.")


class _Told:
    """Progress on the terminal: a line now and then, and one at the end of a pass."""

    def __init__(self) -> None:
        self._started = self._told = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Tell, if it is time."""
        now = time.monotonic()
        if progress.done == 1:
            self._started = now
        if now - self._told < TELL_EVERY_S and progress.done < progress.of:
            return
        self._told = now
        left_s = (now - self._started) / progress.done * (progress.of - progress.done)
        typer.echo(
            f"{progress.done} of {progress.of} studies, {progress.written} written, {progress.failed} failed, "
            f"about {left_s / 60:.0f} min left",
            err=True,
        )


def _nothing() -> None:
    return
