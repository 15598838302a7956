"""pynetdicom's acceptor with limits that it lacks.

What these classes close: half a PDU that holds a thread for ever, a PDU length that makes the
process buffer gigabytes, a data set without end, a C-STORE of a SOP class that pynetdicom does not
know, an association whose thread dies and leaves its socket open. They override internals, so
pynetdicom is pinned.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from services.listener import metrics

log = logging.getLogger(__name__)

# An A-ASSOCIATE-RQ is not bound by the negotiated PDU length; 128 contexts fit easily.
_MIN_PDU_LIMIT_BYTES: Final = 1 << 20
_MAX_COMMAND_BYTES: Final = 1 << 16
# Connections that have not sent their request yet are no associations, but each takes two threads.
_CONNECTIONS_PER_ASSOCIATION: Final = 2
_association_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """What one connection may take."""

    max_pdu_bytes: int
    max_object_bytes: int
    pdu_timeout_s: float


class CappedBuffer(BytesIO):
    """Keeps what is written up to `max_bytes`; more makes it `overflowed` and empty."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self.overflowed = False

    def write(self, data: Any, /) -> int:
        """Take `data`, or drop it and all before it once the limit is passed."""
        size = len(data)
        if self.overflowed:
            return size
        if self.tell() + size > self._max_bytes:
            self.overflowed = True
            self.seek(0)
            self.truncate()
            return size
        return super().write(data)


class LimitedSocket(AssociationSocket):
    """Reads whole PDUs, within a length and a time."""

    def __init__(self, assoc: Association, client_socket: socket.socket, limits: TransportLimits) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._max_bytes = max(limits.max_pdu_bytes, _MIN_PDU_LIMIT_BYTES)
        self._timeout_s = limits.pdu_timeout_s
        client_socket.settimeout(self._timeout_s)
        # PS3.8 answers are small PDUs: Nagle's algorithm would hold them for the peer's delayed ACK.
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, or fewer if the peer closes the connection.

        Raises:
            OSError: the PDU is longer than allowed, or took too long.
        """
        if nr_bytes > self._max_bytes:
            raise OSError(f"a PDU of {nr_bytes} bytes; the limit is {self._max_bytes}")
        connection = self.socket
        if connection is None:
            raise OSError("the connection is closed")
        data = bytearray(nr_bytes)
        received = 0
        deadline_s = time.monotonic() + self._timeout_s
        with memoryview(data) as view:
            while received < nr_bytes:
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    raise TimeoutError("a PDU took too long to arrive")
                connection.settimeout(remaining_s)
                count = connection.recv_into(view[received:])
                if not count:
                    break
                received += count
        connection.settimeout(self._timeout_s)
        del data[received:]
        return data

    def _shutdown_socket(self) -> None:
        """Close the connection, also one that the peer has reset already."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class LimitedDimse(DIMSEServiceProvider):
    """Puts DIMSE messages together in buffers with a limit."""

    def __init__(self, assoc: Association, max_object_bytes: int) -> None:
        super().__init__(assoc)
        self._max_object_bytes = max_object_bytes

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take one P-DATA's fragments."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.encoded_command_set = CappedBuffer(_MAX_COMMAND_BYTES)
            self.message.data_set = CappedBuffer(self._max_object_bytes)
        super().receive_primitive(primitive)


class ListenerDul(DULServiceProvider):
    """The upper layer's thread, which ends quietly on what its state machine cannot digest."""

    def run_reactor(self) -> None:
        """Run until the association ends."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001
            # Such as an even presentation context id. The association's thread sees that this one is gone.
            log.warning("a peer broke the upper layer protocol: %s", type(error).__name__)


class ListenerAssociation(Association):
    """One sender's association. `number` tells it from all others of this process."""

    def __init__(self, ae: ApplicationEntity, limits: TransportLimits, on_closed: Callable[[int], None]) -> None:
        super().__init__(ae, "acceptor")
        self.number = next(_association_numbers)
        self.dul = ListenerDul(self)
        # These reach into the upper layer provider, so they are set again.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout
        self.dimse = LimitedDimse(self, limits.max_object_bytes)
        self._on_closed = on_closed

    def _bind_defaults(self) -> None:
        """Only what must be answered: the default notification handlers format every PDU for a log."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def run_reactor(self) -> None:
        """Serve the association to its end, and leave neither thread nor socket behind."""
        metrics.ASSOCIATIONS_OPEN.inc()
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001
            # Negotiation of a malformed request raises; the peer gets a closed connection.
            log.warning("association %d ended by an error: %s", self.number, type(error).__name__)
            metrics.ASSOCIATIONS.labels("failed").inc()
            self.dul.kill_dul()
        finally:
            metrics.ASSOCIATIONS_OPEN.dec()
            self._on_closed(self.number)
            if self.dul.socket is not None and self.dul.socket.socket is not None:
                self.dul.socket.close()

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Any C-STORE is for the storage service, whatever its SOP class."""
        if not isinstance(msg, C_STORE) or self._sent_release:
            super()._serve_request(msg, context_id)
            return
        context = self._accepted_cx.get(context_id)
        if context is None or not msg.is_valid_request:
            log.warning("association %d: a C-STORE request without what it must have; aborted", self.number)
            self.abort()
            return
        self._is_paused = True
        StorageServiceClass(self).SCP(msg, context)
        self._is_paused = False


class ListenerServer(ThreadedAssociationServer):
    """The listening socket. What it declares here is set before it serves."""

    request_queue_size = 128
    limits: TransportLimits
    handlers: Mapping[evt.EventType, Callable[[evt.Event], Any]]
    on_closed: Callable[[int], None]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn a connection away at once when too many wait for their negotiation."""
        limit = self.ae.maximum_associations * _CONNECTIONS_PER_ASSOCIATION
        if len(self.active_associations) < limit:
            return True
        metrics.ASSOCIATIONS.labels("refused").inc()
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks before its association begins is no news."""
        log.debug("a connection broke before its association began", exc_info=True)


class ListenerRequestHandler(RequestHandler):
    """Makes a `ListenerAssociation` of a connection."""

    server: ListenerServer

    def _create_association(self) -> ListenerAssociation:
        server, ae = self.server, self.server.ae
        assoc = ListenerAssociation(ae, server.limits, server.on_closed)
        assoc._server = server
        # `active_associations` and the limit on associations go by this name.
        assoc.name = f"AcceptorThread@{assoc.number}"
        assoc.set_socket(LimitedSocket(assoc, self.request, server.limits))
        assoc.acceptor.maximum_length = ae.maximum_pdu_size
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = ae.implementation_version_name
        assoc.acceptor.supported_contexts = []
        assoc.requestor.address_info = self.remote
        for event, handler in server.handlers.items():
            assoc.bind(event, handler)
        return assoc
