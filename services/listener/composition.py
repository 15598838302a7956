"""The listener put together, apart from its broker, its monitoring port and its process."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

from services.listener import metrics
from services.listener.access import AccessRules, OpenAssociations
from services.listener.admission import GuardedAdmission
from services.listener.association import Association
from services.listener.commitment import TakeCommitmentRequest
from services.listener.commitment_check import CheckCommitment
from services.listener.commitment_delivery import CommitmentTimes
from services.listener.commitment_peers import parse_peers
from services.listener.commitment_reports import CommitmentReports
from services.listener.commitment_transactions import Transactions
from services.listener.completion import Completion
from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.ports import Publisher
from services.listener.publish import PublishStudy
from services.listener.server import Secure, Server
from services.listener.settings import ListenerSection, ListenerSettings
from services.listener.store import StoreObject, load_object
from services.listener.tls import TlsContexts, TlsSection
from services.listener.tls_socket import accept_tls
from shared.archive import Archive, open_archive
from shared.errors import ConfigurationError
from shared.pseudonym import Pseudonyms, load_key

log = logging.getLogger(__name__)

# Connections that have not sent their request yet are no associations, but each takes a thread.
_CONNECTIONS_PER_ASSOCIATION: Final = 2
_UID_PATTERN: Final = re.compile(r"[0-9.*?]{1,64}")


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
            conflicts=section.conflicts,
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
        open_studies.found(study, journal.sender_of(study))
    if unpublished:
        log.info("going on with %d studies from an earlier run", len(unpublished))
    archive = open_archive(settings.archive)
    completion = Completion(
        journal=journal,
        open_studies=open_studies,
        publish=PublishStudy(journal, archive, publisher),
        poll_s=min(0.5, section.study_quiet_s / 4),
        retry_s=section.publish_retry_s,
        retry_max_s=section.publish_retry_max_s,
        concurrency=section.publish_concurrency,
    )
    open_associations = OpenAssociations(
        max_total=section.max_associations,
        max_per_peer=section.max_associations_per_peer,
        max_connections=section.max_associations * _CONNECTIONS_PER_ASSOCIATION,
    )
    access = AccessRules(section.access, ae_title=section.ae_title)
    take_commitment_request, commitment_reports = _commitment(section, journal, archive, open_studies)

    def ended(association: Association) -> None:
        open_studies.association_closed(association.number)
        commitment_reports.association_ended(association)

    server = Server(
        section,
        StoreObject(journal, open_studies, pseudonyms, section.max_object_bytes),
        GuardedAdmission(access, open_associations),
        open_associations,
        ended=ended,
        is_welcome=access.is_welcome,
        secure=_secure(section.tls),
        commitment=take_commitment_request,
        is_allowed=_sop_class_filter(section.sop_classes),
    )
    address = server.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(completion.run())
            closing.add_done_callback(_report_death)
            reporting = tasks.create_task(commitment_reports.run())
            try:
                yield address
            finally:
                await asyncio.to_thread(server.stop)
                closing.cancel()
                reporting.cancel()
    except BaseExceptionGroup as group:
        # The group's only other member could be an error of the body.
        raise group.exceptions[0] from None


def _report_death(closing: asyncio.Task[None]) -> None:
    if not closing.cancelled() and (error := closing.exception()) is not None:
        log.critical("publishing has ended, and the listener ends with it", exc_info=error)


def _commitment(
    section: ListenerSection, journal: Journal, archive: Archive, open_studies: OpenStudies
) -> tuple[TakeCommitmentRequest, CommitmentReports]:
    try:
        transactions = Transactions(section.journal_dir / "commitments")
    except OSError as error:
        raise ConfigurationError(f"the journal {section.journal_dir} cannot be used: {error}") from error
    reports = CommitmentReports(
        transactions=transactions,
        check=CheckCommitment(journal, archive, section.journal_dir / "conflicting"),
        open_studies=open_studies,
        addresses=parse_peers(section.commitment_peers),
        times=CommitmentTimes(
            wait_s=section.commitment_wait_s,
            retry_s=section.commitment_retry_s,
            retry_max_s=section.commitment_retry_max_s,
            retry_max_age_s=section.commitment_retry_max_age_s,
        ),
    )
    return TakeCommitmentRequest(transactions, reports, journal.check_space, section.commitment_max_transactions), reports


def _secure(section: TlsSection) -> Secure | None:
    if section.mode == "off":
        return None
    contexts = TlsContexts(
        section, on_reload=lambda taken: metrics.TLS_RELOADS.labels("taken" if taken else "kept-old").inc()
    )
    metrics.TLS_EXPIRY_SECONDS.set_function(contexts.seconds_until_expiry)
    return lambda connected: accept_tls(connected, contexts)


def _sop_class_filter(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a SOP Class UID is one of `patterns`; none of them: any is."""
    if not patterns:
        return lambda _: True
    for pattern in patterns:
        if not _UID_PATTERN.fullmatch(pattern):
            raise ConfigurationError(f"SIMILIS_LISTENER__SOP_CLASSES: {pattern!r} is no UID, nor one with * or ?")
    wanted = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
    return lambda uid: wanted.fullmatch(uid) is not None
