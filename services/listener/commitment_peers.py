"""Requestors of storage commitment: where their AEs listen, and reports on associations to them."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.association import Association

from services.listener.commitment_transactions import Transaction
from services.listener.negotiation import STORAGE_COMMITMENT
from services.listener.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

STORAGE_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

_CONNECT_TIMEOUT_S: Final = 10.0
_ANSWER_TIMEOUT_S: Final = 30.0
_PEER: Final = re.compile(r"(?P<title>[^=\\]{1,16}?)\s*=\s*(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:]+):(?P<port>\d{1,5})")

Peers = dict[str, tuple[str, int]]
Compose = Callable[[], tuple[int, Dataset]]
"""Gives the event type and the report. A report is large: none is held for a requestor that is away."""


def parse_peers(entries: Iterable[str]) -> Peers:
    """AE titles with the host and port that each listens on, from entries like CT1=10.1.2.3:104.

    Raises:
        ConfigurationError: an entry is none, or an AE title has two.
    """
    peers: Peers = {}
    for entry in entries:
        match = _PEER.fullmatch(entry.strip())
        if match is None or not match["title"].strip() or not 0 < int(match["port"]) < 65536:
            raise ConfigurationError(f"SIMILIS_LISTENER__COMMITMENT_PEERS: {entry!r} is not like AE=host:port")
        title = match["title"].strip()
        if title in peers:
            raise ConfigurationError(f"SIMILIS_LISTENER__COMMITMENT_PEERS: {title} has two addresses")
        peers[title] = match["host"].strip("[]"), int(match["port"])
    return peers


class ReportByAssociation:
    """Delivers reports on associations of its own, in the SCP role: PS3.4 section J.3.3, PS3.7 section D.3.3.4."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Association] = set()
        self._is_closed = False

    def __call__(self, transaction: Transaction, address: tuple[str, int], compose: Compose) -> int | None:
        """The status of the requestor's answer; None if there was none: it is away, or does not take reports."""
        ae = AE(ae_title=transaction.called_ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.connection_timeout = ae.acse_timeout = _CONNECT_TIMEOUT_S
        ae.dimse_timeout = ae.network_timeout = _ANSWER_TIMEOUT_S
        ae.add_requested_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        role = build_role(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
        host, port = address
        try:
            association = ae.associate(host, port, ae_title=transaction.calling_ae_title, ext_neg=[role])
        except OSError as error:
            log.warning("the address of %s cannot be used: %s", transaction.calling_ae_title, error.strerror)
            return None
        with self._lock:
            self._open.add(association)
            is_closed = self._is_closed
        try:
            return None if is_closed else self._send(association, transaction, compose)
        finally:
            with self._lock:
                self._open.discard(association)
            _end(association)

    @staticmethod
    def _send(association: Association, transaction: Transaction, compose: Compose) -> int | None:
        if not association.is_established:
            return None
        if not any(context.as_scp for context in association.accepted_contexts):
            log.warning("%s does not let others report storage commitment", transaction.calling_ae_title)
            return None
        event_type_id, ds = compose()
        try:
            status, _ = association.send_n_event_report(
                ds, event_type_id, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
        except RuntimeError:  # the association has just ended
            return None
        return int(status.Status) if "Status" in status else None

    def close(self) -> None:
        """Deliver no more, and break off what is under way."""
        with self._lock:
            self._is_closed = True
            under_way = list(self._open)
        for association in under_way:
            # What waits for an answer would sleep through an abort. This is what it is told when a peer is gone.
            association.dimse.msg_queue.put((None, None))


def _end(association: Association) -> None:
    """Release the association, or leave a broken one; its socket is closed in any case."""
    transport = association.dul.socket
    connection = transport.socket if transport is not None else None
    if association.is_established:
        association.release()
    if association.is_alive():
        association.join(_CONNECT_TIMEOUT_S)
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.close()
