"""One association, served by one thread from its request to its end.

    A-ASSOCIATE-RQ ─▶ admitted? ─▶ A-ASSOCIATE-AC ─▶ messages … ─▶ A-RELEASE-RQ ─▶ A-RELEASE-RP ─▶ closed
                          └▶ A-ASSOCIATE-RJ

It is the acceptor's half of the state machine of PS3.8 section 9.2, written as a straight line: the
thread sleeps in the socket, so an idle association costs nothing, and an object's fragments go from
the socket to its file without a queue or a second thread in between.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from services.listener import dimse, metrics
from services.listener import upper_layer as ul
from services.listener.answers import Answer
from services.listener.assembly import AbortError, Message, MessageAssembly, stores_by
from services.listener.negotiation import (
    APPLICATION_CONTEXT,
    STORAGE_COMMITMENT,
    VERIFICATION,
    AcceptedContext,
    AssociationRequest,
    MalformedRequestError,
    Negotiation,
    RejectedContext,
)
from services.listener.ports import Admission, CommitmentRequests, Receiver, Reject
from services.listener.store import Reception, StoreRequest
from services.listener.tally import Tally
from shared.ids import is_valid_uid

log = logging.getLogger(__name__)

# An A-ASSOCIATE-RQ is not bound by the negotiated PDU length; 128 contexts fit easily.
_MAX_CONTROL_PDU_BYTES: Final = 256 << 10
_MIN_P_DATA_LIMIT_BYTES: Final = 1 << 20
_LINGER_S: Final = 2.0
_TALLIED: Final = 1000
_SHOWN_SYNTAXES: Final = 4

_UNSUPPORTED_VERSION: Final = Reject(1, 2, 2, "protocol-version")
_UNSUPPORTED_APPLICATION: Final = Reject(1, 1, 2, "application-context")


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """What one association may take; 0 objects: any number."""

    max_pdu_bytes: int
    max_objects: int
    max_object_bytes: int
    acse_timeout_s: float
    network_timeout_s: float
    pdu_timeout_s: float


class Association:
    """One peer's association. `number` tells it from all others of this process.

    `tallied` is told of the tally before it is begun anew, should it grow long.
    """

    def __init__(
        self,
        connection: ul.Connection,
        *,
        number: int,
        peer_address: str,
        limits: AssociationLimits,
        receiver: Receiver,
        admission: Admission,
        negotiation: Negotiation,
        commitment: CommitmentRequests | None = None,
        certificate_sha256: str | None = None,
        tallied: Callable[[Association], None] = lambda _: None,
    ) -> None:
        self.number = number
        self.peer_address = peer_address
        self.certificate_sha256 = certificate_sha256
        self.tally = Tally()
        self._tallied = tallied
        self._connection = connection
        self._limits = limits
        self._receiver = receiver
        self._admission = admission
        self._commitment = commitment
        self._negotiation = negotiation
        self._request: AssociationRequest | None = None
        self._contexts: dict[int, AcceptedContext] = {}
        self._objects = 0
        self._idle_since_s: float | None = None
        self._established = threading.Event()
        self._is_admitted = False
        self._stopping = False
        # Message ids of our own requests on this association, and who waits for their answers.
        self._message_ids = itertools.count(1)
        self._reports: dict[int, Callable[[int], None]] = {}
        self._assembly: MessageAssembly | None = None

    def serve(self) -> None:
        """Serve the association to its end, and leave neither socket nor file behind. Never raises."""
        connection = self._connection
        try:
            if self._establish():
                self._assembly = MessageAssembly(
                    connection, self._contexts, self._begin_object, self._limits.max_object_bytes
                )
                self._serve_messages(self._assembly)
        except AbortError as error:
            log.warning("association %d from %s: aborted: %s", self.number, self._sender, error)
            self._end("aborted")
            self._send_last(error.pdu)
        except ul.TooSlowError as error:
            log.warning("association %d from %s: aborted: %s", self.number, self._sender, error)
            self._end("timed-out")
            self._send_last(ul.abort_pdu(ul.NO_REASON))
        except ul.ClosedError:
            self._end("lost")
        except Exception:
            log.exception("association %d ended by an error", self.number)
            self._end("failed")
            self._send_last(ul.abort_pdu(ul.NO_REASON))
        finally:
            if self._assembly is not None:
                self._assembly.discard()
            self._established.clear()
            connection.close()
            if self._is_admitted:
                self._admission.left(self)

    def stop(self) -> None:
        """End the association from another thread: at once if it is idle, else after the object in hand."""
        self._stopping = True
        if self._assembly is None or self._assembly.is_idle:
            with contextlib.suppress(ul.ClosedError, ul.TooSlowError):
                self._connection.send(ul.abort_pdu(ul.BY_USER))
            self._connection.shut()

    def cut(self) -> None:
        """End the connection from another thread, whatever is under way."""
        self._connection.shut()

    def report(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        event_type_id: int,
        data_set: Callable[[str], bytes],
        answered: Callable[[int], None],
    ) -> bool:
        """Send an N-EVENT-REPORT-RQ from any thread; `answered` gets its status from this association's thread.

        `data_set` encodes the report in a transfer syntax. Returns False if the association is not
        open, or has no context for it.
        """
        if not self._established.is_set() or self._stopping:
            return False
        found = [pair for pair in self._contexts.items() if pair[1].abstract_syntax == sop_class_uid]
        if not found:
            return False
        context_id, context = found[0]
        message_id = next(self._message_ids) % 0xFFFF + 1
        self._reports[message_id] = answered
        command = dimse.event_report_request(
            message_id=message_id,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            event_type_id=event_type_id,
        )
        try:
            self._send_message(context_id, command, data_set(context.transfer_syntax))
        except (ul.ClosedError, ul.TooSlowError):
            self._reports.pop(message_id, None)
            # A part of it may be out: nothing can follow that.
            self._connection.shut()
            return False
        return True

    @property
    def idle_s(self) -> float:
        """How long nothing has come since the last message was answered; 0 if it is not so."""
        since_s = self._idle_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def _sender(self) -> str:
        return self.tally.calling_ae_title or "an unknown AE"

    def _end(self, how: str) -> None:
        self.tally.end = how
        metrics.ASSOCIATIONS.labels(how).inc()

    def _send_last(self, pdu: bytes) -> None:
        """Send the PDU after which nothing follows, and let the peer see it."""
        try:
            self._connection.send(pdu)
            self._await_close()
        except (ul.ClosedError, ul.TooSlowError, OSError):
            log.debug("association %d: the peer is gone already", self.number)

    def _establish(self) -> bool:
        """Whether the association was accepted. The whole request must come within the ARTIM time."""
        connection = self._connection
        connection.timeout(self._limits.acse_timeout_s, in_all=True)
        kind, length = connection.read_header()
        if kind != ul.ASSOCIATE_RQ:
            reason = ul.UNEXPECTED_PDU if kind <= ul.ABORT else ul.UNRECOGNIZED_PDU
            raise AbortError(reason, "the first PDU is no association request")
        if length > _MAX_CONTROL_PDU_BYTES:
            raise AbortError(ul.INVALID_PARAMETER, "the association request is too long")
        try:
            request = self._negotiation.parse(connection.read(length))
        except MalformedRequestError as error:
            raise AbortError(ul.INVALID_PARAMETER, f"a malformed association request ({error})") from None
        self._request = request
        self.tally.calling_ae_title, self.tally.called_ae_title = request.calling_ae_title, request.called_ae_title
        if (reject := self._refusal(request)) is not None:
            self.tally.reject = reject.why
            self._end("rejected")
            metrics.ASSOCIATIONS_REJECTED.labels(reject.why).inc()
            log.warning("association from %s at %s rejected: %s", self._sender, self.peer_address, reject.why)
            self._send_last(ul.reject_pdu(reject.result, reject.source, reject.reason))
            return False
        try:
            acceptance = self._negotiation.accept(request)
        except MalformedRequestError as error:
            raise AbortError(ul.INVALID_PARAMETER, f"a malformed association request ({error})") from None
        self._contexts = acceptance.contexts
        if acceptance.rejected:
            _report_rejected(acceptance.rejected)
        connection.timeout(self._limits.pdu_timeout_s)
        connection.send(acceptance.pdu)
        metrics.ASSOCIATIONS.labels("accepted").inc()
        self._established.set()
        return True

    def _refusal(self, request: AssociationRequest) -> Reject | None:
        if not request.protocol_version & 1:
            return _UNSUPPORTED_VERSION
        if request.application_context != APPLICATION_CONTEXT:
            return _UNSUPPORTED_APPLICATION
        reject = self._admission.admit(self)
        self._is_admitted = reject is None
        return reject

    def _serve_messages(self, assembly: MessageAssembly) -> None:
        connection, limits = self._connection, self._limits
        max_p_data_bytes = max(limits.max_pdu_bytes, _MIN_P_DATA_LIMIT_BYTES) if limits.max_pdu_bytes else 1 << 32
        while True:
            is_idle = assembly.is_idle
            if is_idle and self._stopping:
                raise AbortError(ul.BY_USER, "the listener stops")
            if is_idle:
                connection.expect_rate(expected=False)
                connection.timeout(limits.network_timeout_s, in_all=True)
            self._idle_since_s = time.monotonic() if is_idle else None
            kind, length = connection.read_header()
            self._idle_since_s = None
            if kind == ul.P_DATA_TF:
                if length > max_p_data_bytes:
                    raise AbortError(ul.INVALID_PARAMETER, f"a PDU of {length} bytes")
                if is_idle:
                    connection.timeout(limits.pdu_timeout_s)
                    connection.expect_rate(expected=True)
                for message in assembly.take(length):
                    self._answer(message)
            elif kind in (ul.RELEASE_RQ, ul.RELEASE_RP, ul.ABORT) and length == 4:
                connection.read(4)
                if kind == ul.ABORT:
                    self._end("aborted-by-peer")
                    return
                if kind == ul.RELEASE_RP or not is_idle:
                    raise AbortError(ul.UNEXPECTED_PDU, "a release within a message")
                self._end("released")
                self._established.clear()
                self._send_last(ul.release_reply_pdu())
                return
            else:
                reason = ul.UNEXPECTED_PDU if kind <= ul.ABORT else ul.UNRECOGNIZED_PDU
                raise AbortError(reason, f"an unexpected PDU of type 0x{kind:02X}")

    def _await_close(self) -> None:
        """PS3.8 state 13: the requestor closes the connection; after a short while this side does.

        What it still sends is read: closing with bytes unread would reset the connection, and the
        peer might never see the last PDU.
        """
        self._connection.expect_rate(expected=False)
        self._connection.timeout(_LINGER_S, in_all=True)
        try:
            while True:
                self._connection.read_some(1 << 16)
        except (ul.ClosedError, ul.TooSlowError):
            return

    def _begin_object(self, command: dimse.Command, context: AcceptedContext) -> Reception:
        self._objects += 1
        if self._limits.max_objects and self._objects > self._limits.max_objects:
            raise AbortError(ul.BY_USER, f"more than {self._limits.max_objects} objects")
        return self._receiver.begin(
            StoreRequest(
                association=self.number,
                calling_ae_title=self.tally.calling_ae_title,
                called_ae_title=self.tally.called_ae_title,
                # An object of another class than was negotiated for its context matches none.
                sop_class_uid=command.sop_class_uid if command.sop_class_uid == context.abstract_syntax else "",
                sop_instance_uid=command.sop_instance_uid,
                transfer_syntax_uid=context.transfer_syntax,
                peer_address=self.peer_address,
            )
        )

    def _answer(self, message: Message) -> None:
        command, syntax = message.command, message.context.abstract_syntax
        status, comment = dimse.UNRECOGNIZED_OPERATION, ""
        if message.reception is not None:
            answer = message.reception.finish()
            self._count(message.reception, answer)
            status, comment = answer.status, answer.comment if answer.status else ""
        elif command.field == dimse.C_ECHO_RQ and syntax == VERIFICATION:
            metrics.ECHOES.inc()
            status = dimse.SUCCESS
        elif command.field == dimse.N_ACTION_RQ and syntax == STORAGE_COMMITMENT:
            if self._commitment is not None:
                transfer_syntax = message.context.transfer_syntax
                status = self._commitment.requested(self, command, message.data_set, transfer_syntax)
        elif command.field == dimse.N_EVENT_REPORT_RSP:
            if (answered := self._reports.pop(command.responded_to, None)) is not None:
                answered(command.status)
            return
        elif command.field == dimse.C_CANCEL_RQ:
            return
        elif command.field & dimse.RESPONSE:
            raise AbortError(ul.INVALID_PARAMETER, "a response to no request")
        elif command.field == dimse.C_STORE_RQ and stores_by(message.context):
            status, comment = 0xC000, "The request has no data set"
        self._send_message(message.context_id, dimse.response(command, status, comment))

    def _count(self, reception: Reception, answer: Answer) -> None:
        self.tally.count(reception, answer)
        if len(self.tally.objects) >= _TALLIED:
            # A sender of thousands of studies is told of in between.
            self._tallied(self)
            self.tally.objects = {}

    def _send_message(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        limit = self._request.max_pdu_bytes if self._request is not None else 0
        self._connection.send(ul.message_pdus(context_id, command, data_set, max_pdu_bytes=limit))


def _report_rejected(contexts: Sequence[RejectedContext]) -> None:
    for context in contexts:
        metrics.CONTEXTS_REJECTED.labels(context.reason).inc()
    first = contexts[0]
    log.warning(
        "%d presentation contexts not accepted; the first (%s): %s in %s",
        len(contexts),
        first.reason,
        _shown(first.abstract_syntax),
        ", ".join(map(_shown, first.transfer_syntaxes[:_SHOWN_SYNTAXES])) or "no transfer syntax",
    )


def _shown(uid: str) -> str:
    """A stranger's UID as a log may show it."""
    return uid if is_valid_uid(uid) else "an invalid UID"
