"""The step behind C-STORE: checks an object, keeps it durably, and says how to answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from services.listener import metrics
from services.listener.answers import Answer, Outcome, RefusedObjectError
from services.listener.header import ObjectHeader, read_header
from services.listener.journal import Journal, JournalObject, hashes
from services.listener.open_studies import OpenStudies
from services.listener.part10 import FileMeta, encode_file_head, split_file
from shared.pseudonym import Pseudonyms

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE request. `dataset` is the data set's bytes as received; None if they were too many to keep."""

    association: int
    calling_ae_title: str
    called_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes | None


@dataclass(frozen=True, slots=True)
class StoreObject:
    """Keeps the objects that it answers with Success; every other answer leaves nothing behind."""

    journal: Journal
    open_studies: OpenStudies
    pseudonyms: Pseudonyms
    max_object_bytes: int

    def __call__(self, request: StoreRequest) -> Answer:
        """Blocks until the object is durable or refused. Never raises: what fails is an answer too."""
        try:
            answer = self._store(request)
        except RefusedObjectError as error:
            answer = error.answer
        except OSError as error:
            log.error("an object could not be written to the journal: %s", error.strerror)  # noqa: TRY400
            answer = Answer(Outcome.NO_SPACE, "The listener cannot write to its disk")
        except Exception:
            log.exception("an object could not be handled")
            answer = Answer(Outcome.FAILED, "Internal error of the listener")
        self._count(request, answer)
        return answer

    def _store(self, request: StoreRequest) -> Answer:
        dataset = request.dataset
        if dataset is None or len(dataset) > self.max_object_bytes:
            raise RefusedObjectError(Outcome.TOO_LARGE, f"The data set is longer than {self.max_object_bytes} bytes")
        header = read_header(dataset, request.transfer_syntax_uid, self.pseudonyms, max_bytes=self.max_object_bytes)
        _check_request(request, header)
        meta = FileMeta(request.transfer_syntax_uid, request.calling_ae_title)
        head = encode_file_head(
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            meta=meta,
            receiving_ae_title=request.called_ae_title,
        )
        outcome = self.journal.store(_journal_object(header, meta, head, dataset), (head, dataset))
        study = header.study_instance_uid
        if outcome is Outcome.STORED:
            metrics.OBJECT_BYTES.inc(len(dataset))
            self.open_studies.stored(study, request.association)
        else:
            self.open_studies.repeated(study, request.association)
        return Answer(outcome)

    def _count(self, request: StoreRequest, answer: Answer) -> None:
        metrics.OBJECTS.labels(answer.outcome, f"{answer.status:04X}").inc()
        if answer.outcome is Outcome.DUPLICATE:
            metrics.DUPLICATES.inc()
        elif answer.outcome is Outcome.CONFLICT:
            metrics.CONFLICTS.inc()
        if answer.status:
            log.warning(
                "object refused with 0x%04X: %s (from %s)", answer.status, answer.comment, request.calling_ae_title
            )


def load_object(file: bytes, pseudonyms: Pseudonyms, *, max_object_bytes: int) -> JournalObject:
    """What `StoreObject` knew of an object when it wrote this file.

    Raises:
        RefusedObjectError: the file is damaged.
    """
    meta, dataset = split_file(file)
    header = read_header(dataset, meta.transfer_syntax_uid, pseudonyms, max_bytes=max_object_bytes)
    return _journal_object(header, meta, file[: len(file) - len(dataset)], dataset)


def _journal_object(header: ObjectHeader, meta: FileMeta, head: bytes, dataset: bytes | memoryview) -> JournalObject:
    sha256, dataset_sha256 = hashes(head, dataset)
    return JournalObject(
        header=header,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae_title=meta.sending_ae_title,
        size_bytes=len(head) + len(dataset),
        sha256=sha256,
        dataset_sha256=dataset_sha256,
    )


def _check_request(request: StoreRequest, header: ObjectHeader) -> None:
    """PS3.7 section 9.1.1: the request's affected SOP class and instance are those of its data set."""
    if request.sop_instance_uid != header.sop_instance_uid:
        raise RefusedObjectError(Outcome.MISMATCH, "SOP Instance UID differs between request and data set")
    if request.sop_class_uid != header.sop_class_uid:
        raise RefusedObjectError(Outcome.MISMATCH, "SOP Class UID differs between request and data set")
