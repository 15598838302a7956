"""The step behind C-STORE and STOW-RS: takes an object as it arrives, keeps it durably, says how to answer."""

from __future__ import annotations

import errno
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.listener import fault_points, metrics
from services.listener.answers import Answer, Outcome, RefusedObjectError
from services.listener.elements import FileSource
from services.listener.header import ObjectHeader, PatientIdentity, read_header
from services.listener.journal import Journal
from services.listener.kept import JournalObject
from services.listener.open_studies import OpenStudies
from services.listener.part import Part
from services.listener.part10 import encode_file_head, read_file_head
from shared.pseudonym import Pseudonyms

log = logging.getLogger(__name__)

# How often free space is looked at while one object arrives.
_CHECK_SPACE_EVERY_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a sender says of an object before it sends it. `association` numbers its association."""

    association: int
    calling_ae_title: str
    called_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    peer_address: str = ""


Decide = Callable[[StoreRequest, ObjectHeader], Answer | None]
NoteIdentity = Callable[[ObjectHeader, PatientIdentity], None]


def accept_all(request: StoreRequest, header: ObjectHeader) -> Answer | None:
    """Without rules every object is kept."""
    return None


def note_nobody(header: ObjectHeader, identity: PatientIdentity) -> None:
    """Without a crosswalk no identity is kept."""


@dataclass(frozen=True, slots=True)
class StoreObject:
    """Keeps the objects that it answers with Success; every other answer leaves nothing behind.

    `decide` gives the answer to an object that is not to be kept, or None. `note_identity` is called
    before an object is kept, durably.
    """

    journal: Journal
    open_studies: OpenStudies
    pseudonyms: Pseudonyms
    max_object_bytes: int
    decide: Decide = accept_all
    note_identity: NoteIdentity = note_nobody

    def begin(self, request: StoreRequest) -> Reception:
        """An object begins to arrive. Never raises: what fails is answered at its end."""
        return Reception(self, request)


class Reception:
    """One object on its way in. `write` what arrives, then `finish`; or `discard`. None of them raises."""

    __slots__ = ("_answer", "_next_check_bytes", "_part", "_step", "header", "request")

    def __init__(self, step: StoreObject, request: StoreRequest) -> None:
        self.request = request
        self.header: ObjectHeader | None = None
        self._step = step
        self._part: Part | None = None
        self._answer: Answer | None = None
        self._next_check_bytes = _CHECK_SPACE_EVERY_BYTES
        try:
            head = encode_file_head(
                sop_class_uid=request.sop_class_uid,
                sop_instance_uid=request.sop_instance_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
            )
            self._part = step.journal.receive(head)
        except Exception as error:  # noqa: BLE001 - each has its answer
            self._fail(error)

    def write(self, data: bytes | memoryview) -> None:
        """Take a piece of the data set; after a failure it is dropped."""
        part = self._part
        if part is None:
            return
        try:
            self._check_size(part.dataset_bytes + len(data))
            part.write(data)
        except Exception as error:  # noqa: BLE001 - each has its answer
            self._fail(error)

    def finish(self) -> Answer:
        """Everything has arrived: blocks until the object is durable or refused."""
        started_s = time.perf_counter()
        if self._part is not None:
            try:
                self._answer = self._keep(self._part)
            except Exception as error:  # noqa: BLE001
                self._fail(error)
            finally:
                self.discard()
        answer = self._answer or Answer(Outcome.FAILED, "Internal error of the listener")
        metrics.STORE_SECONDS.observe(time.perf_counter() - started_s)
        self._count(answer)
        return answer

    def discard(self) -> None:
        """Nothing more comes: leave nothing behind."""
        part, self._part = self._part, None
        if part is not None:
            self._step.journal.release(part)

    def _check_size(self, size_bytes: int) -> None:
        limit_bytes = self._step.max_object_bytes
        if size_bytes > limit_bytes:
            raise RefusedObjectError(Outcome.TOO_LARGE, f"The data set is longer than {limit_bytes} bytes")
        if size_bytes >= self._next_check_bytes:
            self._next_check_bytes += _CHECK_SPACE_EVERY_BYTES
            self._step.journal.check_space(0)

    def _fail(self, error: Exception) -> None:
        """Remember how to answer; what comes from now on is dropped."""
        if isinstance(error, RefusedObjectError):
            self._answer = error.answer
        elif isinstance(error, OSError):
            log.error("an object could not be written to the journal: %s", error.strerror)
            text = "The disk is full" if error.errno == errno.ENOSPC else "The listener cannot write to its disk"
            self._answer = Answer(Outcome.NO_SPACE, text)
        else:
            log.error("an object could not be handled", exc_info=error)
            self._answer = Answer(Outcome.FAILED, "Internal error of the listener")
        self.discard()

    def _keep(self, part: Part) -> Answer:
        step, request = self._step, self.request
        header, identity = read_header(
            part.dataset(), request.transfer_syntax_uid, step.pseudonyms, max_bytes=step.max_object_bytes
        )
        _check_request(request, header)
        self.header = header
        if (refusal := step.decide(request, header)) is not None:
            return refusal
        received = JournalObject(
            header=header,
            transfer_syntax_uid=request.transfer_syntax_uid,
            calling_ae_title=request.calling_ae_title,
            size_bytes=part.size_bytes,
            sha256=part.sha256(),
        )
        outcome = step.journal.keep(received, part, first=lambda: step.note_identity(header, identity))
        study = header.study_instance_uid
        if outcome is Outcome.STORED:
            metrics.OBJECT_BYTES.inc(part.dataset_bytes)
            step.open_studies.stored(study, request.association, request.calling_ae_title)
        else:
            step.open_studies.repeated(study, request.association)
        fault_points.reach("store.answered")
        return Answer(outcome)

    def _count(self, answer: Answer) -> None:
        metrics.OBJECTS.labels(answer.outcome, f"{answer.status:04X}").inc()
        if answer.outcome is Outcome.STORED:
            return
        if answer.outcome is Outcome.DUPLICATE:
            metrics.DUPLICATES.inc()
        elif answer.outcome in (Outcome.CONFLICT, Outcome.SET_ASIDE):
            metrics.CONFLICTS.inc()
        if answer.status:
            sender = self.request.calling_ae_title
            log.warning("object refused with 0x%04X: %s (from %s)", answer.status, answer.comment, sender)


def load_object(path: Path, calling_ae_title: str, pseudonyms: Pseudonyms, *, max_object_bytes: int) -> JournalObject:
    """What `StoreObject` knew of an object from `calling_ae_title` when it wrote the file at `path`.

    Raises:
        RefusedObjectError: the file is damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = file.tell()
        transfer_syntax_uid, start = read_file_head(file.fileno())
        source = FileSource(file.fileno(), start, size_bytes - start)
        header, _ = read_header(source, transfer_syntax_uid, pseudonyms, max_bytes=max_object_bytes)
    return JournalObject(
        header=header,
        transfer_syntax_uid=transfer_syntax_uid,
        calling_ae_title=calling_ae_title,
        size_bytes=size_bytes,
        sha256=sha256,
    )


def _check_request(request: StoreRequest, header: ObjectHeader) -> None:
    """PS3.7 section 9.1.1: the request's affected SOP class and instance are those of its data set."""
    if request.sop_instance_uid != header.sop_instance_uid:
        raise RefusedObjectError(Outcome.MISMATCH, "SOP Instance UID differs between request and data set")
    if request.sop_class_uid != header.sop_class_uid:
        raise RefusedObjectError(Outcome.MISMATCH, "SOP Class UID differs between request and data set")
