"""The listener put together, apart from its broker, its monitoring port and its process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final, NamedTuple

from services.listener import metrics
from services.listener.access import AccessRules, OpenAssociations
from services.listener.admission import GuardedAdmission
from services.listener.association import Association
from services.listener.audit import AuditLog
from services.listener.audit_messages import Peer
from services.listener.commitment import TakeCommitmentRequest
from services.listener.commitment_check import CheckCommitment
from services.listener.commitment_delivery import CommitmentTimes
from services.listener.commitment_peers import parse_peers
from services.listener.commitment_reports import CommitmentReports
from services.listener.commitment_transactions import Transactions
from services.listener.completion import Completion
from services.listener.crosswalk import Crosswalk
from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.policies import by_rules, into_crosswalk, sop_class_filter, tls
from services.listener.ports import Publisher
from services.listener.publish import PublishStudy
from services.listener.rules import Routing
from services.listener.rules_file import load_rules
from services.listener.server import Server
from services.listener.settings import ListenerSection, ListenerSettings
from services.listener.store import StoreObject, load_object
from services.listener.stow_server import stow_door
from services.listener.threads import in_thread
from shared.archive import Archive, open_archive
from shared.errors import ConfigurationError
from shared.pseudonym import Pseudonyms, load_key

log = logging.getLogger(__name__)

# Connections that have not sent their request yet are no associations, but each takes a thread.
_CONNECTIONS_PER_ASSOCIATION: Final = 2


class Doors(NamedTuple):
    """The bound DICOM host and port, and the URL of STOW-RS if that is on."""

    host: str
    port: int
    stow_url: str | None


@contextlib.asynccontextmanager
async def listening(settings: ListenerSettings, publisher: Publisher) -> AsyncIterator[Doors]:
    """A whole listener around `publisher`; yields where it listens.

    Should publishing ever end by an error, the body is cancelled and that error raised: a listener
    that only receives must not look like one that works.

    Raises:
        ConfigurationError: the journal, the archive, the key or the address cannot be used.
    """
    section = settings.listener
    key = load_key(section.pseudonym_key_file, generate=section.generate_pseudonym_key)
    pseudonyms = Pseudonyms(key)
    with contextlib.ExitStack() as closing:
        try:
            journal = Journal(
                section.journal_dir,
                load=partial(load_object, pseudonyms=pseudonyms, max_object_bytes=section.max_object_bytes),
                min_free_bytes=section.min_free_disk_bytes,
                min_free_files=section.min_free_disk_files,
                conflicts=section.conflicts,
            )
            closing.callback(journal.close)
            unpublished = await asyncio.to_thread(journal.recover)
        except OSError as error:
            raise ConfigurationError(f"the journal {section.journal_dir} cannot be used: {error}") from error
        audit = AuditLog(section.audit, ae_title=section.ae_title, on_dropped=metrics.AUDIT_RECORDS_LOST.inc)
        closing.callback(audit.close)
        crosswalk = None
        if section.crosswalk_file is not None:
            if section.crosswalk_key_file is not None:
                key = load_key(section.crosswalk_key_file, generate=False)
            crosswalk = await asyncio.to_thread(Crosswalk, section.crosswalk_file, key)
            closing.callback(crosswalk.close)
        routing = load_rules(section.rules_file) if section.rules_file is not None else Routing()
        open_studies = OpenStudies(section.study_quiet_s, section.study_max_age_s, routing.completion.for_ae)
        for study in unpublished:
            open_studies.found(study, journal.sender_of(study))
        if unpublished:
            log.info("going on with %d studies from an earlier run", len(unpublished))
        store = StoreObject(
            journal,
            open_studies,
            pseudonyms,
            section.max_object_bytes,
            decide=by_rules(routing.rules),
            note_identity=into_crosswalk(crosswalk),
        )
        async with _listening(settings, publisher, journal, store, audit) as doors:
            yield doors


@contextlib.asynccontextmanager
async def _listening(
    settings: ListenerSettings, publisher: Publisher, journal: Journal, store: StoreObject, audit: AuditLog
) -> AsyncIterator[Doors]:
    section, open_studies = settings.listener, store.open_studies
    archive = open_archive(settings.archive)
    completion = Completion(
        journal=journal,
        open_studies=open_studies,
        publish=PublishStudy(journal, archive, publisher, asyncio.Semaphore(section.publish_concurrency)),
        poll_s=min(0.5, section.study_quiet_s / 4),
        retry_s=section.publish_retry_s,
        retry_max_s=section.publish_retry_max_s,
    )
    open_associations = OpenAssociations(
        max_total=section.max_associations,
        max_per_peer=section.max_associations_per_peer,
        max_connections=section.max_associations * _CONNECTIONS_PER_ASSOCIATION,
    )
    access = AccessRules(section.access, ae_title=section.ae_title)
    take_commitment_request, commitment_reports = _commitment(section, journal, archive, open_studies, audit)

    def ended(association: Association) -> None:
        open_studies.association_closed(association.number)
        commitment_reports.association_ended(association)

    # Requests by either door count as associations: one counter numbers both.
    numbers = itertools.count(1)
    server = Server(
        section,
        store,
        GuardedAdmission(access, open_associations, audit),
        open_associations,
        ended=ended,
        audit=audit,
        is_welcome=access.is_welcome,
        secure=tls(section.tls),
        commitment=take_commitment_request,
        is_allowed=sop_class_filter(section.sop_classes),
        numbers=numbers,
    )
    address = server.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            closing = tasks.create_task(completion.run())
            closing.add_done_callback(_report_death)
            reporting = tasks.create_task(commitment_reports.run())
            try:
                async with stow_door(section, store, numbers=numbers, audit=audit) as stow_url:
                    yield Doors(*address, stow_url)
            finally:
                await in_thread(server.stop)
                closing.cancel()
                reporting.cancel()
    except BaseExceptionGroup as group:
        # The group's only other member could be an error of the body.
        raise group.exceptions[0] from None


def _report_death(closing: asyncio.Task[None]) -> None:
    if not closing.cancelled() and (error := closing.exception()) is not None:
        log.critical("publishing has ended, and the listener ends with it", exc_info=error)


def _commitment(
    section: ListenerSection, journal: Journal, archive: Archive, open_studies: OpenStudies, audit: AuditLog
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
        reported=lambda one, counts: audit.commitment_answered(
            Peer(one.peer_address, one.calling_ae_title, one.called_ae_title), one.transaction_uid, counts
        ),
    )
    return TakeCommitmentRequest(
        transactions, reports, journal.check_space, section.commitment_max_transactions
    ), reports
