"""The listening socket: a thread accepts connections, and each gets a thread of its own."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from services.listener import metrics
from services.listener.access import OpenAssociations
from services.listener.admission import peer_of
from services.listener.association import Association, AssociationLimits
from services.listener.audit import AuditLog
from services.listener.audit_messages import Peer
from services.listener.negotiation import Negotiation
from services.listener.ports import Admission, CommitmentRequests, Receiver
from services.listener.settings import ListenerSection
from services.listener.tls_socket import HandshakeError, TlsConnection
from services.listener.upper_layer import Connection
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_LONGEST_TICK_S: Final = 5.0
_STOP_PAUSE_S: Final = 0.02
_ACCEPT_PAUSE_S: Final = 0.1
# Fits the largest fragment of the PDU length that is negotiated by default.
_RECEIVE_BYTES: Final = 256 * 1024

Secure = Callable[[socket.socket], TlsConnection]
Ended = Callable[[Association], None]


class Server:
    """The running acceptor.

    `is_welcome` may turn a peer address away before a byte is read; `secure` makes a TLS connection of
    one, in its own thread, and raises HandshakeError if that fails; `ended` is told of each
    association's end.

    Raises:
        ConfigurationError: from `start`, if the address cannot be bound.
    """

    def __init__(
        self,
        settings: ListenerSection,
        receiver: Receiver,
        admission: Admission,
        open_associations: OpenAssociations,
        *,
        ended: Ended,
        audit: AuditLog,
        is_welcome: Callable[[str], bool] = lambda _: True,
        secure: Secure | None = None,
        commitment: CommitmentRequests | None = None,
        is_allowed: Callable[[str], bool] = lambda _: True,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._settings = settings
        self._receiver = receiver
        self._admission = admission
        self._open_associations = open_associations
        self._ended = ended
        self._audit = audit
        self._is_welcome = is_welcome
        self._secure = secure
        self._commitment = commitment
        self._negotiation = Negotiation(
            max_pdu_bytes=settings.max_pdu_bytes, is_allowed=is_allowed, commitment=commitment is not None
        )
        self._limits = AssociationLimits(
            max_pdu_bytes=settings.max_pdu_bytes,
            max_objects=settings.max_objects_per_association,
            max_object_bytes=settings.max_object_bytes,
            acse_timeout_s=settings.acse_timeout_s,
            network_timeout_s=settings.network_timeout_s,
            pdu_timeout_s=settings.pdu_timeout_s,
        )
        shortest_s = min(settings.acse_timeout_s, settings.network_timeout_s, settings.pdu_timeout_s)
        self._tick_s = min(_LONGEST_TICK_S, shortest_s / 4)
        self._numbers = numbers or itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[Association | socket.socket, threading.Thread] = {}
        self._stopped = threading.Event()
        self._listening: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> tuple[str, int]:
        """Begin to accept connections; the bound host and port."""
        host, port = self._settings.host, self._settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
        self._listening = listening
        self._thread = threading.Thread(target=self._accept, args=(listening,), name="dicom-acceptor")
        self._thread.start()
        bound_host, bound_port = listening.getsockname()[:2]
        return bound_host, bound_port

    def stop(self, *, patience_s: float = 5.0) -> None:
        """Accept no more, let stores under way finish, end the associations; safe to repeat."""
        listening, self._listening = self._listening, None
        if listening is None or self._thread is None:
            return
        self._stopped.set()
        # Closing alone does not wake a thread that waits in accept.
        try:
            listening.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("the listening socket: %s", error)
        self._thread.join()
        listening.close()
        deadline_s = time.monotonic() + patience_s
        # Nobody may still write when the journal is given up. A connection may become an association meanwhile.
        told: set[Association] = set()
        while under_way := self._under_way():
            is_late = time.monotonic() > deadline_s
            for one, thread in under_way:
                if isinstance(one, Association):
                    if is_late:
                        one.cut()
                    elif one not in told:
                        told.add(one)
                        one.stop()
                thread.join(_STOP_PAUSE_S)

    def _under_way(self) -> list[tuple[Association | socket.socket, threading.Thread]]:
        with self._lock:
            return [pair for pair in self._open.items() if pair[1].is_alive()]

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connected, address = listening.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                # Out of file descriptors, or a peer that was gone at once.
                log.warning("a connection could not be accepted: %s", error.strerror)
                time.sleep(_ACCEPT_PAUSE_S)
                continue
            try:
                self._begin(connected, str(address[0]))
            except Exception:
                # This thread is the listener's ear.
                log.exception("a connection could not be begun")
                connected.close()

    def _begin(self, connected: socket.socket, peer_address: str) -> None:
        if not self._is_welcome(peer_address):
            self._turn_away(connected, peer_address, "peer-address")
            return
        if not self._open_associations.connected(peer_address):
            self._turn_away(connected, peer_address, "connection-limit")
            return
        thread = threading.Thread(target=self._serve, args=(connected, peer_address), name="dicom-association")
        with self._lock:
            self._open[connected] = thread
        try:
            thread.start()
        except RuntimeError:
            log.error("no thread is left for a connection")  # noqa: TRY400
            self._forget(connected)
            self._open_associations.disconnected(peer_address)
            connected.close()

    def _turn_away(self, connected: socket.socket, peer_address: str, why: str) -> None:
        metrics.ASSOCIATIONS.labels("refused").inc()
        self._audit.association_refused(Peer(peer_address), why)
        connected.close()

    def _serve(self, connected: socket.socket, peer_address: str) -> None:
        served: Association | socket.socket = connected
        metrics.ASSOCIATIONS_OPEN.inc()
        try:
            secured, certificate_sha256 = connected, None
            if self._secure is not None:
                connection = self._secure(connected)
                secured, certificate_sha256 = connection.socket, connection.peer_fingerprint
            association = Association(
                Connection(
                    secured,
                    receive_bytes=_RECEIVE_BYTES,
                    tick_s=self._tick_s,
                    grace_s=self._settings.pdu_timeout_s,
                    min_bytes_per_s=self._settings.min_receive_bytes_per_s,
                ),
                number=next(self._numbers),
                peer_address=peer_address,
                limits=self._limits,
                receiver=self._receiver,
                admission=self._admission,
                commitment=self._commitment,
                negotiation=self._negotiation,
                certificate_sha256=certificate_sha256,
                tallied=self._record,
            )
            with self._lock:
                self._open[association] = self._open.pop(connected)
            served = association
            association.serve()
            self._record(association)
            self._ended(association)
        except HandshakeError as error:
            metrics.ASSOCIATIONS.labels("no-tls").inc()
            metrics.TLS_FAILURES.labels(error.reason).inc()
            self._audit.association_refused(Peer(peer_address), error.reason)
            log.warning("a connection from %s: %s", peer_address, error)
        except OSError as error:
            log.warning("a connection from %s broke before its association: %s", peer_address, type(error).__name__)
        except Exception:
            log.exception("a connection ended by an error")
        finally:
            connected.close()
            self._forget(served)
            self._open_associations.disconnected(peer_address)
            metrics.ASSOCIATIONS_OPEN.dec()

    def _record(self, association: Association) -> None:
        """Tell the audit log what an association has brought."""
        peer, tally = peer_of(association), association.tally
        if tally.reject:
            self._audit.association_refused(peer, tally.reject)
        self._audit.association_ended(peer, tally.objects)

    def _forget(self, served: Association | socket.socket) -> None:
        with self._lock:
            self._open.pop(served, None)
