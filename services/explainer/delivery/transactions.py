"""Storage Commitment from the requestor's side (PS3.4 annex J): what was asked for, and the reports that come back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from services.explainer.delivery.settings import DeliverySection
from shared.errors import ConfigurationError
from shared.events import ResultObject

log = logging.getLogger(__name__)

_SUCCESS: Final = 0x0000
_INVALID_ARGUMENT: Final = 0x0115


@dataclass(eq=False, slots=True)
class Transaction:
    """A request for commitment.

    Attributes:
        uid: Its Transaction UID, drawn at random.
        objects: What shall be committed.
        failures: SOP Instance UIDs that the destination will not keep, with its reason, once it has reported.
    """

    objects: Sequence[ResultObject]
    reported: Callable[[Transaction], None]
    uid: str = field(default_factory=generate_uid)
    failures: dict[str, str] = field(default_factory=dict)
    _has_come: threading.Event = field(default_factory=threading.Event)

    def is_reported(self) -> bool:
        """Whether the report has come."""
        return self._has_come.is_set()

    def request(self) -> Dataset:
        """The data set of the N-ACTION-RQ: PS3.4 table J.3-1."""
        ds = Dataset()
        ds.TransactionUID = self.uid
        ds.ReferencedSOPSequence = [_reference(one) for one in self.objects]
        return ds

    def wait(self, seconds: float) -> bool:
        """Whether the report has come within that time."""
        return self._has_come.wait(seconds)

    def report(self, ds: Dataset) -> None:
        """Take the report. What it does not name as committed is not."""
        committed = {str(item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence", ())}
        reasons = {
            str(item.get("ReferencedSOPInstanceUID", "")): f"0x{int(item.get('FailureReason') or 0):04X}"
            for item in ds.get("FailedSOPSequence", ())
        }
        wanted = (one.sop_instance_uid for one in self.objects)
        self.failures = {uid: reasons.get(uid, "not named") for uid in wanted if uid not in committed or uid in reasons}
        self._has_come.set()
        self.reported(self)


class Transactions:
    """The requests that wait for a report, and the AE that takes reports on associations of the destinations' own."""

    def __init__(self) -> None:
        self._open: dict[str, Transaction] = {}
        self._lock = threading.Lock()

    def begin(self, objects: Sequence[ResultObject], reported: Callable[[Transaction], None]) -> Transaction:
        """A new transaction; `reported` is called from any thread, once."""
        transaction = Transaction(objects, reported)
        with self._lock:
            self._open[transaction.uid] = transaction
        return transaction

    def forget(self, transaction: Transaction) -> None:
        """Take no report of it any more."""
        with self._lock:
            self._open.pop(transaction.uid, None)

    def take(self, event: evt.Event) -> tuple[int, None]:
        """Handle an N-EVENT-REPORT (PS3.4 section J.3.3). One that nobody waits for has Success as well."""
        try:
            ds = event.event_information
            uid = str(ds.TransactionUID)
        except (AttributeError, ValueError):
            return _INVALID_ARGUMENT, None
        with self._lock:
            transaction = self._open.pop(uid, None)
        if transaction is None:
            log.info("a report of storage commitment that nobody waits for: %s", uid[:64])
        else:
            transaction.report(ds)
        return _SUCCESS, None


class ReportServer:
    """Takes reports on new associations while it is open. Only AEs that are destinations are let in."""

    def __init__(self, section: DeliverySection, transactions: Transactions) -> None:
        """Bind the port.

        Raises:
            ConfigurationError: it cannot be bound.
        """
        ae = AE(ae_title=section.calling_ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = [destination.called_ae_title for destination in section.destinations]
        ae.maximum_associations = 2 * len(section.destinations)
        ae.acse_timeout = ae.network_timeout = ae.dimse_timeout = section.connect_timeout_s
        # The destination is the SCP, also where it opens the association: PS3.7 section D.3.3.4.
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        address = (section.report_host, section.report_port or 0)
        try:
            # Without `block` there is always a server.
            self._server: Any = ae.start_server(
                address, block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, transactions.take)]
            )
        except OSError as error:
            raise ConfigurationError(f"SIMILIS_DELIVERY__REPORT_PORT: cannot bind {address}: {error}") from error

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Take no more reports."""
        self._server.shutdown()


def _reference(one: ResultObject) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item
