"""Composition: settings, model, index, archive; then serve until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from pydantic import ValidationError

from services.query import metrics, openapi
from services.query.audit.log import AuditLog
from services.query.catalogue import Catalogue
from services.query.decoding import open_frame_reader
from services.query.explanations import Explanations, NoPublisher, Publisher
from services.query.find_similar import FindSimilar
from services.query.follow_live import FollowLive
from services.query.http import build_app
from services.query.live_backbone import judging_tasks, load_at_start, load_live, open_collections, vision_of
from services.query.parts import Parts
from services.query.pictures import PictureCache, Pictures
from services.query.ports import Encoder
from services.query.schema import TaskInfo
from services.query.settings import QuerySettings
from services.query.spaces import Collections, Open, Space
from services.query.study_columns import CurrentColumns
from services.query.study_news import StudyNews
from services.query.work import Workers
from shared.archive import Archive, open_archive
from shared.errors import ConfigurationError, IndexUnavailableError
from shared.health import Health, bind, serve, write_endpoints
from shared.labels import LabelStore
from shared.logs import configure_logging
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.vector_index import collection_name, open_index
from shared.vector_index.aliases import open_aliases
from shared.vector_index.port import Aliases, VectorIndex
from shared.vision.tasks import BUILT_IN, TaskDefinition, load_definition, read_definition, task_names

log = logging.getLogger(__name__)

NAME: Final = "query"

# On stop, requests under way get this long.
GRACE_S: Final = 5


def main() -> None:
    """Run the query service until SIGTERM or SIGINT; exit 2 if a setting is wrong."""
    try:
        settings = QuerySettings()
    except ValidationError as error:
        print(f"similis {NAME}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    configure_logging(NAME, log_format=settings.log_format, level=settings.log_level)
    try:
        asyncio.run(run(settings))
    except ConfigurationError as error:
        print(f"similis {NAME}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


async def run(settings: QuerySettings) -> None:
    """Serve at once, load the model meanwhile, be ready then; until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health()
    audit = AuditLog(settings.query.audit, on_dropped=metrics.AUDIT_RECORDS_LOST.inc)
    app = build_app(settings.query, health, audit)
    archive = open_archive(settings.archive)
    async with (
        _closing(audit),
        serve(app, bind(settings.query.host, settings.query.port), grace_s=GRACE_S) as url,
        _publisher(settings) as publisher,
    ):
        tasks = [asyncio.create_task(_prepare(app, settings, archive, publisher))]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await tasks[0]
            tasks.append(asyncio.create_task(_follow_live(app, settings)()))
            health.ready = True
            write_endpoints(settings.endpoint_file, {"http": url, "metrics": f"{url}/metrics"})
            log.info("ready at %s (research use only)", url)
        await stopping
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if app.state.parts is not None:
            app.state.parts.news.stop()
            app.state.parts.frame_reader.close()
            app.state.parts.collections.close()
    log.info("stopped")


def build_parts(
    settings: QuerySettings,
    *,
    archive: Archive,
    index: VectorIndex,
    encoder: Encoder,
    tasks: tuple[TaskInfo, ...] = (),
    definitions: Iterable[TaskDefinition] = (),
    publisher: Publisher | None = None,
    spaces: Mapping[str, Space] | None = None,
    open_collection: Open | None = None,
    aliases: Aliases | None = None,
    frame_reader: FrameReader | None = None,
) -> Parts:
    """What the routes work with. Decode workers are started by the first frame, unless `frame_reader` has some."""
    query = settings.query
    limits = PixelLimits.of(settings.vision)
    upload_limits = replace(limits, max_decoded_bytes=query.upload_max_decoded_bytes)
    reader = frame_reader or open_frame_reader(settings)

    def workers(size: int) -> Workers:
        return Workers(size, queue_timeout_s=query.queue_timeout_s, retry_after_s=query.retry_after_s)

    catalogue = Catalogue(archive, query.catalogue_max_age_s, query.catalogue_recheck_s)
    return Parts(
        settings=query,
        archive=archive,
        catalogue=catalogue,
        columns=CurrentColumns(catalogue),
        news=StudyNews(
            catalogue,
            poll_s=query.event_poll_s,
            keep_alive_s=query.event_keep_alive_s,
            stream_max_s=query.event_stream_max_s,
            listeners_max=query.event_listeners_max,
            per_user_max=query.event_listeners_per_user_max,
            kept_max=query.event_kept_max,
        ),
        encoder=encoder,
        find_similar=FindSimilar(index, encoder.id, query.search_frames_max),
        collections=Collections(encoder.id, encoder.dim, index, open_collection, aliases, spaces or {}),
        pictures=Pictures(archive, PictureCache(query.picture_cache_bytes), reader, query.picture_max_px),
        frame_reader=reader,
        limits=limits,
        upload_limits=upload_limits,
        tasks=tasks,
        tasks_dir=settings.vision.tasks_dir,
        labels=LabelStore(archive, query.label_records_max, query.label_places_max),
        definitions={definition.name: definition for definition in definitions},
        explanations=Explanations(archive, publisher or NoPublisher(), query.explanation_requests_max),
        readers=workers(query.workers),
        decoders=workers(query.decoders),
        encoders=workers(query.encoders),
    )


def export_openapi(path: Path) -> None:
    """Write the API's OpenAPI document; see `services.query.openapi`."""
    openapi.export_openapi(path)


def check_openapi(path: Path) -> list[str]:
    """Compare the document at `path` with the API; see `services.query.openapi`."""
    return openapi.check_openapi(path)


@contextlib.asynccontextmanager
async def _closing(audit: AuditLog) -> AsyncIterator[None]:
    """The audit log is written to its end once nobody is served any more."""
    try:
        yield
    finally:
        await asyncio.to_thread(audit.close)


@contextlib.asynccontextmanager
async def _publisher(settings: QuerySettings) -> AsyncIterator[Publisher | None]:
    """Where requests for maps go; None without a broker: all but asking for maps works then."""
    if settings.kafka.bootstrap is None:
        log.warning("SIMILIS_KAFKA__BOOTSTRAP is not set: nobody can ask for maps")
        yield None
        return
    from shared.delivery import EventPublisher

    # Not connected yet: `publish` does that, and browsing needs no broker.
    publisher = EventPublisher(settings.kafka, source=NAME)
    try:
        yield publisher
    finally:
        await publisher.stop()


def _opener(settings: QuerySettings) -> Open:
    return lambda name, dim: open_index(settings.qdrant, collection=name, dim=dim)


async def _prepare(app: FastAPI, settings: QuerySettings, archive: Archive, publisher: Publisher | None) -> None:
    # No other reference to the parts is kept: after a change of the backbone the old one's memory is given back.
    definitions = await asyncio.to_thread(label_definitions, settings)
    encoder, tasks, spaces = await asyncio.to_thread(_load_vision, settings)
    index = await _open_index(settings, encoder)
    app.state.parts = build_parts(
        settings,
        archive=archive,
        index=index,
        encoder=encoder,
        tasks=tasks,
        definitions=definitions.values(),
        publisher=publisher,
        spaces=spaces,
        open_collection=_opener(settings),
        aliases=open_aliases(settings.qdrant),
    )
    # So that no request waits for the workers.
    await asyncio.to_thread(app.state.parts.frame_reader.start)


def label_definitions(settings: QuerySettings) -> Mapping[str, TaskDefinition]:
    """The tasks that may be labelled, by name: those that `similis train` knows, whether or not they have a head.

    Raises:
        ConfigurationError: one cannot be read.
    """
    folder = settings.vision.tasks_dir
    found = {name: load_definition(BUILT_IN / name) for name in task_names()}
    if folder is not None:
        found |= {name: load_definition(folder / name) for name in task_names(folder)}
    named = [read_definition(path) for path in settings.query.label_definitions]
    return found | {definition.name: definition for definition in named}


def _load_vision(settings: QuerySettings) -> tuple[Encoder, tuple[TaskInfo, ...], Mapping[str, Space]]:
    live = load_at_start(settings)
    return live.encoder, judging_tasks(settings.vision), live.spaces


def _follow_live(app: FastAPI, settings: QuerySettings) -> FollowLive:
    def load(collection: str) -> tuple[Encoder, Collections]:
        live = load_live(vision_of(settings, collection))
        return live.encoder, open_collections(settings, live)

    def exchange(parts: Parts) -> None:
        app.state.parts = parts

    return FollowLive(
        open_aliases(settings.qdrant),
        load,
        current=lambda: app.state.parts,
        exchange=exchange,
        poll_s=settings.query.live_poll_s,
        grace_s=settings.query.search_timeout_s,
    )


async def _open_index(settings: QuerySettings, encoder: Encoder) -> VectorIndex:
    """The index of the backbone's collection; a service started before its engine waits for it."""
    collection = collection_name(encoder.id)
    while True:
        try:
            return await asyncio.to_thread(open_index, settings.qdrant, collection=collection, dim=encoder.dim)
        except IndexUnavailableError as error:
            log.warning("waiting for the vector index: %s", error)
            await asyncio.sleep(settings.query.start_pause_s)
