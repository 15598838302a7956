"""Which of a transaction's instances are committed: those whose very bytes are durable in the archive."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from services.listener.commitment_requests import Reference
from services.listener.commitment_transactions import Transaction
from services.listener.journal import Journal
from shared.archive import Archive, manifest_key
from shared.errors import ArchiveObjectCorruptError, ArchiveObjectMissingError
from shared.manifest import InstanceEntry, StudyManifest

log = logging.getLogger(__name__)

# Failure Reason (0008,1197): PS3.3 section C.14.1.1.
COMMITTED: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
DUPLICATE_TRANSACTION_UID: Final = 0x0131


@dataclass(slots=True)
class Verdict:
    """What is known of a transaction's instances, in their order: COMMITTED, or why not."""

    reasons: array[int] = field(default_factory=lambda: array("H"))
    counts: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    """Study, patient's pseudonym, SOP class and reason to a number of instances; what is unknown is empty."""

    @classmethod
    def failed(cls, transaction: Transaction) -> Verdict:
        """Nothing is known of any of them."""
        verdict = cls()
        for reference in transaction.references:
            verdict.add(PROCESSING_FAILURE, reference)
        return verdict

    def add(self, reason: int, reference: Reference, study: str = "", pseudonym: str = "") -> None:
        """Say `reason` of the next instance."""
        self.reasons.append(reason)
        self.counts[study, pseudonym, reference.sop_class_uid, reason] += 1


@dataclass(frozen=True, slots=True)
class _Study:
    """What is archived of a study: its newest manifest, the hashes that the journal knows, what waits."""

    entries: Mapping[str, InstanceEntry]
    sha256: Mapping[str, str]
    revision: int
    is_waiting: bool
    is_readable: bool = True


@dataclass(frozen=True, slots=True)
class CheckCommitment:
    """Reads each instance back from the archive and compares it with what was received.

    An instance of which the journal's folder `conflicting` holds another object fails: which of the
    two the requestor means cannot be told.
    """

    journal: Journal
    archive: Archive
    conflicting: Path

    def awaited(self, transaction: Transaction) -> dict[str, int]:
        """The studies with objects that are received, but not archived yet, and the revision that is archived.

        Nothing is read back.

        Raises:
            ArchiveUnavailableError: try again.
            OSError: the journal cannot be read; try again.
        """
        if transaction.is_duplicate:
            return {}
        studies: dict[str, _Study] = {}
        waiting: dict[str, int] = {}
        for reference in transaction.references:
            study = self.journal.study_of(reference.sop_instance_uid)
            if study is None or study in waiting:
                continue
            known = self._known(study, studies)
            if known.is_waiting and reference.sop_instance_uid not in known.entries:
                waiting[study] = known.revision
        return waiting

    def __call__(self, transaction: Transaction) -> Verdict:
        """Judge every instance. What is still not archived fails.

        Raises:
            ArchiveUnavailableError: try again.
            OSError: the journal cannot be read; try again.
        """
        verdict = Verdict()
        studies: dict[str, _Study] = {}
        read_back: dict[str, int] = {}
        disputed = self._disputed()
        for reference in transaction.references:
            if transaction.is_duplicate:
                verdict.add(DUPLICATE_TRANSACTION_UID, reference)
                continue
            study = self.journal.study_of(reference.sop_instance_uid)
            if study is None:
                verdict.add(NO_SUCH_OBJECT_INSTANCE, reference)
                continue
            known = self._known(study, studies)
            entry = known.entries.get(reference.sop_instance_uid)
            if entry is None:
                # The journal still has it, but its time is over; or it was never kept.
                has_it = known.is_waiting or not known.is_readable
                verdict.add(PROCESSING_FAILURE if has_it else NO_SUCH_OBJECT_INSTANCE, reference, study)
            elif entry.sop_class_uid != reference.sop_class_uid:
                verdict.add(CLASS_INSTANCE_CONFLICT, reference, study, entry.patient_pseudonym)
            elif reference.sop_instance_uid in disputed:
                verdict.add(PROCESSING_FAILURE, reference, study, entry.patient_pseudonym)
            else:
                reason = read_back.get(entry.sop_instance_uid)
                if reason is None:
                    reason = read_back[entry.sop_instance_uid] = self._read_back(entry, known)
                verdict.add(reason, reference, study, entry.patient_pseudonym)
        return verdict

    def has_moved(self, study: str, known_revision: int) -> bool:
        """Whether more of `study` may be archived than at `known_revision`, or nothing of it waits any more."""
        return not self.journal.holds(study) or self.archived_revision(study) > known_revision

    def archived_revision(self, study: str) -> int:
        """The newest revision in the archive; it may not be announced yet, if the broker is away.

        Raises:
            ArchiveUnavailableError: try again.
        """
        revision = self.journal.published(study).revision
        return revision + self.archive.exists(manifest_key(study, revision + 1))

    def _known(self, study: str, studies: dict[str, _Study]) -> _Study:
        if study not in studies:
            studies[study] = self._study(study)
        return studies[study]

    def _study(self, study: str) -> _Study:
        # In this order: an object leaves the journal only after a revision that has it is published.
        is_waiting = self.journal.holds(study)
        sha256 = self.journal.published(study).objects
        if not (revision := self.archived_revision(study)):
            return _Study({}, sha256, 0, is_waiting)
        try:
            manifest = StudyManifest.model_validate_json(self.archive.get(manifest_key(study, revision)))
        except (ArchiveObjectMissingError, ValidationError):
            log.exception("study %s: the manifest of revision %d cannot be read", study, revision)
            return _Study({}, sha256, revision, is_waiting=False, is_readable=False)
        entries = {entry.sop_instance_uid: entry for _, entry in manifest.instances()}
        return _Study(entries, sha256, revision, is_waiting)

    def _read_back(self, entry: InstanceEntry, known: _Study) -> int:
        # The journal's own note of the hash, where there is one, cannot be changed from the archive's side.
        sha256 = known.sha256.get(entry.sop_instance_uid, entry.sha256)
        try:
            self.archive.verify(entry.archive_key, sha256, entry.size_bytes)
        except ArchiveObjectMissingError:
            log.error("%s is not in the archive any more", entry.archive_key)  # noqa: TRY400
            return NO_SUCH_OBJECT_INSTANCE
        except ArchiveObjectCorruptError as error:
            log.error("an object in the archive is damaged: %s", error)  # noqa: TRY400
            return PROCESSING_FAILURE
        return COMMITTED

    def _disputed(self) -> set[str]:
        """SOP Instance UIDs of objects that were set aside. Files are named <SOP Instance UID>.<SHA-256>.<…>.dcm."""
        if not self.conflicting.is_dir():
            return set()
        return {path.name.rsplit(".", 3)[0] for path in self.conflicting.glob("*/*.dcm")}
