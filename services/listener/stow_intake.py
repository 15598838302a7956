"""The parts of one STOW-RS request on their way into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pydicom import config
from pydicom.uid import UID

from services.listener import metrics
from services.listener.answers import Answer, Outcome, RefusedObjectError
from services.listener.file_meta import FileMeta, FileMetaReader
from services.listener.header import ObjectHeader
from services.listener.multipart_related import MalformedMultipartError, RelatedReader, parse_media_type
from services.listener.negotiation import TRANSFER_SYNTAXES, is_storage
from services.listener.store import Reception, StoreObject, StoreRequest
from services.listener.stow_response import SOP_CLASS_NOT_SUPPORTED, TRANSFER_SYNTAX_NOT_SUPPORTED, InstanceResult
from services.listener.tally import Tally
from shared.ids import is_valid_uid

log = logging.getLogger(__name__)

DICOM_FILE: Final = "application/dicom"


class TooManyPartsError(Exception):
    """The request has more parts than are allowed."""


class StowIntake:
    """Takes each part, a DICOM file, to its reception, and keeps what it was answered.

    `origin` says who sends; its UIDs are empty. With `study`, objects of another one are refused.
    The methods block, and are for one thread at a time. An object whose part has not come to its
    end is dropped by `discard`.

    Raises:
        MalformedMultipartError: from the constructor, if `boundary` is none.
    """

    def __init__(
        self,
        step: StoreObject,
        origin: StoreRequest,
        *,
        boundary: str,
        study: str | None,
        max_parts: int,
        is_allowed: Callable[[str], bool],
    ) -> None:
        self._step = step if study is None else _for_study(step, study)
        self._origin = origin
        self._max_parts = max_parts
        self._is_allowed = is_allowed
        self._reader = RelatedReader(boundary, self)
        self._parts = 0
        # Of the part that arrives: its head until that is read, then its reception; or why it is refused.
        self._head: FileMetaReader | None = None
        self._reception: Reception | None = None
        self._refusal: Answer | None = None
        self._meta = FileMeta("", "", "")
        self.results: list[InstanceResult] = []
        self.tally = Tally(calling_ae_title=origin.calling_ae_title, called_ae_title=origin.called_ae_title)

    def feed(self, data: bytes) -> None:
        """Take the request's next bytes. The objects that they complete are durable or refused when it returns.

        Raises:
            MalformedMultipartError: they are not divided into parts as they should be.
            TooManyPartsError: there are too many.
        """
        self._reader.feed(data)

    def finish(self) -> None:
        """The request is at its end.

        Raises:
            MalformedMultipartError: it is not whole, or has no parts.
        """
        self._reader.finish()
        if not self._parts:
            raise MalformedMultipartError("the message has no parts")

    def discard(self) -> None:
        """Nothing more comes: leave nothing behind of a part that is not whole; safe to repeat."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.discard()

    def begin(self, content_type: str) -> None:
        """See PartSink."""
        self._parts += 1
        if self._parts > self._max_parts:
            raise TooManyPartsError
        self._head, self._refusal, self._meta = FileMetaReader(), None, FileMeta("", "", "")
        # RFC 2387: without a Content-Type the request's type parameter says what a part is.
        if content_type and parse_media_type(content_type).name != DICOM_FILE:
            self._refusal = Answer(Outcome.MALFORMED, "A part is no DICOM file")

    def write(self, data: memoryview) -> None:
        """See PartSink."""
        if self._refusal is not None:
            return
        if self._reception is not None:
            self._reception.write(data)
            return
        assert self._head is not None
        try:
            rest = self._head.feed(data)
            self._meta = self._head.meta
            if rest is None:
                return
            self._check(self._meta)
        except RefusedObjectError as error:
            self._refusal = error.answer
            return
        except _NotSupportedError as error:
            self._refusal = error.answer
            return
        meta = self._meta
        self._reception = self._step.begin(
            replace(
                self._origin,
                sop_class_uid=meta.sop_class_uid,
                sop_instance_uid=meta.sop_instance_uid,
                transfer_syntax_uid=meta.transfer_syntax_uid,
            )
        )
        if rest:
            self._reception.write(rest)

    def end(self) -> None:
        """See PartSink."""
        reception, self._reception = self._reception, None
        if reception is not None:
            answer = reception.finish()
            self.tally.count(reception, answer)
        else:
            answer = self._refusal or Answer(Outcome.MALFORMED, "Not a DICOM file, or one without a data set")
            metrics.OBJECTS.labels(answer.outcome, f"{answer.status:04X}").inc()
            log.warning(
                "object refused with 0x%04X: %s (from %s)",
                answer.status,
                answer.comment,
                self._origin.calling_ae_title,
            )
        self.results.append(InstanceResult(self._meta.sop_class_uid, self._meta.sop_instance_uid, answer))

    def _check(self, meta: FileMeta) -> None:
        uids = {
            "Media Storage SOP Class UID": meta.sop_class_uid,
            "Media Storage SOP Instance UID": meta.sop_instance_uid,
            "Transfer Syntax UID": meta.transfer_syntax_uid,
        }
        for name, uid in uids.items():
            if not is_valid_uid(uid):
                raise RefusedObjectError(Outcome.MALFORMED, f"{name} is missing or is not a UID")
        if meta.transfer_syntax_uid not in TRANSFER_SYNTAXES:
            raise _NotSupportedError(TRANSFER_SYNTAX_NOT_SUPPORTED, "The transfer syntax is not supported")
        sop_class = UID(meta.sop_class_uid, config.IGNORE)
        if not is_storage(sop_class) or not self._is_allowed(sop_class):
            raise _NotSupportedError(SOP_CLASS_NOT_SUPPORTED, "The SOP class is not stored")


class _NotSupportedError(Exception):
    def __init__(self, reason: int, comment: str) -> None:
        super().__init__(comment)
        self.answer = Answer(Outcome.REFUSED, comment, rule_status=reason)


def _for_study(step: StoreObject, study: str) -> StoreObject:
    """`step`, for objects of one study alone: PS3.18 section 10.5.1.1."""

    def decide(request: StoreRequest, header: ObjectHeader) -> Answer | None:
        if header.study_instance_uid != study:
            return Answer(Outcome.MISMATCH, "The object is of another study than the request")
        return step.decide(request, header)

    return replace(step, decide=decide)
