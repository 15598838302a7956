"""One try: an association, C-STORE of every object, and the request for Storage Commitment."""

from __future__ import annotations

import contextlib
import io
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from services.explainer.delivery import metrics
from services.explainer.delivery.settings import ClientTls, DeliverySection, Destination
from services.explainer.delivery.transactions import Transaction, Transactions
from shared.archive import Archive
from shared.errors import ConfigurationError, PermanentError
from shared.events import ResultObject

log = logging.getLogger(__name__)

_SYNTAXES: Final = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_TURN_OF_THE_REACTOR_S: Final = 0.01
_LAST_ANSWER_S: Final = 2.0
_REQUEST_STORAGE_COMMITMENT: Final = 1  # PS3.4 table J.3-2
# PS3.4 table B.2-1: Success, and warnings with which the object is stored. 0x0111 (PS3.7 C.4.1): it was there before.
_STORED: Final = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})


class DeliveryError(Exception):
    """A try failed. `reason` is one of the metric's; `is_unreachable`: another delivery would fare no better."""

    def __init__(self, reason: str, detail: str, *, is_unreachable: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.is_unreachable = is_unreachable


class WrongObjectError(PermanentError):
    """The archive does not hold the object that the record names."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a destination has stored.

    Attributes:
        not_taken: SOP classes of objects that were left out.
        transaction: The request for commitment, reported or not; None if there is none.
    """

    not_taken: tuple[str, ...]
    transaction: Transaction | None


@dataclass(frozen=True, slots=True)
class SendObjects:
    """Sends to one destination. A call blocks until all is sent, and then for `association_wait_s` at most."""

    section: DeliverySection
    destination: Destination
    archive: Archive
    transactions: Transactions
    tls: ssl.SSLContext | None

    def __call__(self, objects: Sequence[ResultObject], reported: Callable[[Transaction], None]) -> Sent:
        """Send `objects`; sending them again does no harm.

        Raises:
            DeliveryError: the destination does not have them all.
            ArchiveUnavailableError: an object cannot be read just now.
            ArchiveObjectMissingError: an object is not in the archive any more.
            WrongObjectError: the archive holds another object in its place; nothing has been sent.
        """
        for one in objects:
            self._read(one, header_only=True)
        association = self._associate({one.sop_class_uid for one in objects})
        try:
            return self._send(association, objects, reported)
        finally:
            _end(association, self.section.connect_timeout_s)

    def _associate(self, sop_classes: Iterable[str]) -> Association:
        section, destination = self.section, self.destination
        ae = AE(ae_title=section.calling_ae_title)
        ae.connection_timeout = ae.acse_timeout = section.connect_timeout_s
        ae.dimse_timeout = section.answer_timeout_s
        ae.network_timeout = section.answer_timeout_s + section.association_wait_s
        for uid in sorted(sop_classes):
            ae.add_requested_context(UID(uid), _SYNTAXES)
        if destination.commitment != "off":
            ae.add_requested_context(StorageCommitmentPushModel, _SYNTAXES)
        tls = None if self.tls is None else (self.tls, (destination.tls or ClientTls()).server_name or destination.host)
        association = ae.associate(
            destination.host,
            destination.port,
            ae_title=destination.called_ae_title,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.transactions.take)],
            tls_args=tls,
        )
        if not association.is_established:
            how = "it refuses us" if association.is_rejected else "no association"
            raise DeliveryError("unreachable", f"{destination.name}: {how}", is_unreachable=True)
        return association

    def _send(
        self, association: Association, objects: Sequence[ResultObject], reported: Callable[[Transaction], None]
    ) -> Sent:
        name = self.destination.name
        taken_classes = {str(context.abstract_syntax) for context in association.accepted_contexts}
        taken = [one for one in objects if one.sop_class_uid in taken_classes]
        if not taken:
            raise DeliveryError("refused", f"{name} takes objects of none of the SOP classes")
        asks = self.destination.commitment != "off" and str(StorageCommitmentPushModel) in taken_classes
        if self.destination.commitment == "require" and not asks:
            raise DeliveryError("refused", f"{name} does not offer Storage Commitment, and it is required")
        for one in taken:
            self._store(association, one)
        not_taken = tuple(sorted({one.sop_class_uid for one in objects} - taken_classes))
        metrics.NOT_TAKEN.labels(name).inc(len(objects) - len(taken))
        return Sent(not_taken, self._ask(association, taken, reported) if asks else None)

    def _store(self, association: Association, one: ResultObject) -> None:
        ds = self._read(one)
        try:
            with _waiting_alone(association):
                answer = association.send_c_store(ds)
        except (RuntimeError, ValueError) as error:  # the association ended, or the object cannot be encoded
            raise DeliveryError("refused", f"{one.kind}: {error}") from error
        if "Status" not in answer:
            raise DeliveryError("unreachable", f"{one.kind}: no answer to C-STORE", is_unreachable=True)
        if answer.Status not in _STORED:
            raise DeliveryError("refused", f"{one.kind}: C-STORE status 0x{answer.Status:04X}")
        metrics.OBJECTS.labels(self.destination.name).inc()

    def _read(self, one: ResultObject, *, header_only: bool = False) -> Dataset:
        """An object as archived. Under the UID of another it would be committed, and be wrong for good."""
        try:
            ds = dcmread(io.BytesIO(self.archive.get(one.key)), stop_before_pixels=header_only)
        except InvalidDicomError as error:
            raise WrongObjectError(f"{one.key} is no DICOM object") from error
        if (found := str(ds.get("SOPInstanceUID", ""))) != one.sop_instance_uid:
            raise WrongObjectError(f"{one.key} holds {found or 'no SOP instance'}, not {one.sop_instance_uid}")
        return ds

    def _ask(
        self, association: Association, objects: Sequence[ResultObject], reported: Callable[[Transaction], None]
    ) -> Transaction:
        transaction = self.transactions.begin(objects, reported)
        try:
            with _waiting_alone(association):
                answer, _ = association.send_n_action(
                    transaction.request(),
                    _REQUEST_STORAGE_COMMITMENT,
                    StorageCommitmentPushModel,
                    StorageCommitmentPushModelInstance,
                )
        except (RuntimeError, ValueError) as error:
            self.transactions.forget(transaction)
            raise DeliveryError("refused", f"the request for Storage Commitment: {error}") from error
        # A report may overtake the answer to the request.
        if answer.get("Status") != 0x0000 and not transaction.is_reported():
            self.transactions.forget(transaction)
            status = f"status 0x{answer.Status:04X}" if "Status" in answer else "no answer"
            raise DeliveryError("refused", f"the request for Storage Commitment: {status}")
        transaction.wait(self.section.association_wait_s)
        return transaction


def _end(association: Association, patience_s: float) -> None:
    """Release the association, or leave a broken one; its socket is closed in any case."""
    transport = association.dul.socket
    connection = transport.socket if transport is not None else None
    if association.is_established:
        _let_answers_go(association)
        association.release()
    if association.is_alive():
        association.join(patience_s)
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.close()


def _let_answers_go(association: Association) -> None:
    """Wait until the answer to a report has been sent: pynetdicom 3.0.4 may else send it behind the release."""
    until = time.monotonic() + _LAST_ANSWER_S
    with _waiting_alone(association):
        while time.monotonic() < until and not (association._is_paused and association.dul.to_provider_queue.empty()):
            time.sleep(_TURN_OF_THE_REACTOR_S)
        time.sleep(5 * _TURN_OF_THE_REACTOR_S)


@contextlib.contextmanager
def _waiting_alone(association: Association) -> Iterator[None]:
    """Within it the association's own thread takes no answer: pynetdicom 3.0.4 may else lose one that comes at once.

    It takes N-EVENT-REPORTs between two requests, and is told to pause by each request, which may be too late.
    """
    association._reactor_checkpoint.clear()
    time.sleep(_TURN_OF_THE_REACTOR_S)
    try:
        yield
    finally:
        association._reactor_checkpoint.set()


def tls_context(tls: ClientTls | None) -> ssl.SSLContext | None:
    """The context for a destination's TLS section; None without one.

    Raises:
        ConfigurationError: a file is missing or cannot be used.
    """
    if tls is None:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file is not None:
            password = tls.key_password.get_secret_value() if tls.key_password is not None else None
            context.load_cert_chain(tls.cert_file, tls.key_file, password)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"SIMILIS_DELIVERY__DESTINATIONS: tls: {error}") from error
    return context
