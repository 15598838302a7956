"""The listener put together, apart from its broker, its monitoring port and its process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial

from services.listener.completion import Completion
from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.ports import Publisher
from services.listener.publish import PublishStudy
from services.listener.scp import Scp
from services.listener.settings import ListenerSettings
from services.listener.store import StoreObject, load_object
from shared.archive import open_archive
from shared.errors import ConfigurationError
from shared.pseudonym import Pseudonyms, load_key

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def listening(settings: ListenerSettings, publisher: Publisher) -> AsyncIterator[tuple[str, int]]:
    """A whole listener around `publisher`; yields the bound DICOM host and port.

    Should publishing ever end by an error, the body is cancelled and that error raised: a listener
    that only receives must not look like one that works.

    Raises:
        ConfigurationError: the journal, the archive, the key or the address cannot be used.
    """
    section = settings.listener
    pseudonyms = Pseudonyms(load_key(section.pseudonym_key_file, generate=section.generate_pseudonym_key))
    try:
        journal = Journal(
            section.journal_dir,
            load=partial(load_object, pseudonyms=pseudonyms, max_object_bytes=section.max_object_bytes),
            min_free_bytes=section.min_free_disk_bytes,
        )
    except OSError as error:
        raise ConfigurationError(f"the journal {section.journal_dir} cannot be used: {error}") from error
    with contextlib.closing(journal):
        async with _listening(settings, publisher, journal, pseudonyms) as address:
            yield address


@contextlib.asynccontextmanager
async def _listening(
    settings: ListenerSettings, publisher: Publisher, journal: Journal, pseudonyms: Pseudonyms
) -> AsyncIterator[tuple[str, int]]:
    section = settings.listener
    try:
        unpublished = await asyncio.to_thread(journal.recover)
    except OSError as error:
        raise ConfigurationError(f"the journal {section.journal_dir} cannot be used: {error}") from error
    open_studies = OpenStudies(quiet_s=section.study_quiet_s, max_age_s=section.study_max_age_s)
    for study in unpublished:
        open_studies.found(study)
    if unpublished:
        log.info("going on with %d studies from an earlier run", len(unpublished))
    completion = Completion(
        journal=journal,
        open_studies=open_studies,
        publish=PublishStudy(journal, open_archive(settings.archive.url), publisher),
        poll_s=min(0.5, section.study_quiet_s / 4),
        retry_s=section.publish_retry_s,
        retry_max_s=section.publish_retry_max_s,
        concurrency=section.publish_concurrency,
    )
    scp = Scp(section, StoreObject(journal, open_studies, pseudonyms, section.max_object_bytes))
    address = scp.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(completion.run())
            closing.add_done_callback(_report_death)
            try:
                yield address
            finally:
                await asyncio.to_thread(scp.stop)
                closing.cancel()
    except BaseExceptionGroup as group:
        # The group's only other member could be an error of the body.
        raise group.exceptions[0] from None


def _report_death(closing: asyncio.Task[None]) -> None:
    if not closing.cancelled() and (error := closing.exception()) is not None:
        log.critical("publishing has ended, and the listener ends with it", exc_info=error)
