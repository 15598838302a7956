"""TLS on one accepted connection: the handshake in the association's own thread, and who the peer is."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shared.errors import SimilisError

if TYPE_CHECKING:
    from services.listener.tls import TlsContexts

T = TypeVar("T")

# OpenSSL's words for what went wrong, as a label of few values.
_REASONS: Final = MappingProxyType(
    {
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
        "UNSUPPORTED_PROTOCOL": "protocol-version",
        "VERSION_TOO_LOW": "protocol-version",
        "NO_PROTOCOLS_AVAILABLE": "protocol-version",
        "NO_SHARED_CIPHER": "cipher-suite",
        "NO_SUITABLE_SIGNATURE_ALGORITHM": "cipher-suite",
        "NO_SHARED_GROUPS": "cipher-suite",
        "NO_SUITABLE_KEY_SHARE": "cipher-suite",
        "HTTP_REQUEST": "not-tls",
        "WRONG_VERSION_NUMBER": "not-tls",
        "EE_KEY_TOO_SMALL": "certificate-weak",
        "CA_KEY_TOO_SMALL": "certificate-weak",
        "CA_MD_TOO_WEAK": "certificate-weak",
    }
)
# X509_V_ERR_*: x509_vfy.h.
_VERIFY_REASONS: Final = MappingProxyType(
    {
        2: "unknown-authority",
        3: "revocation-list",
        9: "certificate-expired",
        10: "certificate-expired",
        11: "revocation-list",
        12: "revocation-list",
        18: "unknown-authority",
        19: "unknown-authority",
        20: "unknown-authority",
        21: "unknown-authority",
        23: "certificate-revoked",
        66: "certificate-weak",
        67: "certificate-weak",
        68: "certificate-weak",
    }
)


class HandshakeError(SimilisError, ConnectionError):
    """A connection that did not become a TLS connection; it is closed.

    `reason` is one of few words, for metrics and the audit log.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"no TLS connection: {reason}")
        self.reason = reason


class TlsSocket(ssl.SSLSocket):
    """A TLS socket that one thread may read while another sends.

    OpenSSL's connection object may not be used by two threads at once, and Python 3.11 does not see
    to it. So the socket never blocks within OpenSSL: a lock is held for each call, and let go while
    the thread waits for the network.
    """

    _wait_s: float | None = None

    @property
    def _lock(self) -> threading.Lock:
        # SSLSocket makes its objects without calling a constructor that could be extended.
        lock: threading.Lock = self.__dict__.setdefault("_call_lock", threading.Lock())
        return lock

    def settimeout(self, value: float | None) -> None:
        """How long a later call may wait for the network in all; None: without end."""
        self._wait_s = value
        super().settimeout(0.0)

    def gettimeout(self) -> float | None:
        """What `settimeout` was given last."""
        return self._wait_s

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Read what has come into `buffer`; 0 at the end of the connection.

        Raises:
            OSError: the connection is broken, or (TimeoutError) nothing came in time.
        """
        return self._when_ready(lambda: ssl.SSLSocket.recv_into(self, buffer, nbytes, flags))

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Up to `buflen` bytes. Raises as `recv_into`."""
        return self._when_ready(lambda: ssl.SSLSocket.recv(self, buflen, flags))

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of `data`; only one thread may at a time. Raises as `recv_into`."""
        with memoryview(data).cast("B") as view:
            sent = 0
            while sent < len(view):
                # Tried again with the same bytes, as OpenSSL demands.
                rest = view[sent:]
                sent += self._when_ready(lambda rest=rest: ssl.SSLSocket.send(self, rest, flags))  # type: ignore[misc]

    def do_handshake(self, block: bool = False) -> None:
        """Agree on keys, within the time-out as a whole. Raises as `recv_into`."""
        self._when_ready(lambda: ssl.SSLSocket.do_handshake(self))

    def shutdown(self, how: int) -> None:
        """Say that nothing follows (close_notify, as far as it can be said at once), and end the connection."""
        with contextlib.suppress(OSError, ValueError), self._lock:
            self.unwrap()
        # SSLSocket.shutdown would let a thread that still reads take ciphertext for data.
        socket.socket.shutdown(self, how)

    def _when_ready(self, call: Callable[[], T]) -> T:
        deadline_s = None if self._wait_s is None else time.monotonic() + self._wait_s
        while True:
            try:
                with self._lock:
                    return call()
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            self._wait(events, deadline_s)

    def _wait(self, events: int, deadline_s: float | None) -> None:
        waiting = select.poll()
        waiting.register(self, events)
        if deadline_s is None:
            waiting.poll()
        elif (remaining_s := deadline_s - time.monotonic()) <= 0 or not waiting.poll(remaining_s * 1000):
            raise TimeoutError("timed out")


@dataclass(frozen=True, slots=True)
class TlsConnection:
    """A connection whose handshake is done."""

    socket: TlsSocket
    version: str
    cipher_suite: str
    peer_fingerprint: str | None
    """SHA-256 of the peer's certificate in DER form, 64 hexadecimal digits; None if it showed none."""


def accept_tls(connected: socket.socket, contexts: TlsContexts) -> TlsConnection:
    """Make a TLS connection of an accepted one; blocks for at most the handshake's time-out.

    `connected` must not be used any more; on an error it is closed.

    Raises:
        HandshakeError: the peer speaks no TLS, not well enough, or is not let in.
    """
    with contextlib.ExitStack() as undo:
        try:
            # It takes the connection over, also where it fails.
            secured = contexts.current().wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
            undo.callback(secured.close)
            secured.settimeout(contexts.handshake_timeout_s)
            secured.do_handshake()
            certificate = secured.getpeercert(binary_form=True)
        except (OSError, ValueError) as error:
            raise HandshakeError(_reason(error)) from error
        assert isinstance(secured, TlsSocket)  # the contexts' own class
        fingerprint = hashlib.sha256(certificate).hexdigest() if certificate else None
        if contexts.allowed_fingerprints and fingerprint not in contexts.allowed_fingerprints:
            raise HandshakeError("fingerprint")
        cipher = secured.cipher()
        undo.pop_all()
    return TlsConnection(secured, secured.version() or "", cipher[0] if cipher else "", fingerprint)


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "handshake-timeout"
        case ssl.SSLCertVerificationError():
            return _VERIFY_REASONS.get(error.verify_code, "certificate")
        case ssl.SSLEOFError() | ConnectionError():
            return "closed"
        case ssl.SSLError():
            reason = error.reason or ""
            # The peer said so: most often it does not know this listener's authority.
            return "refused-by-peer" if "ALERT" in reason else _REASONS.get(reason, "handshake-failed")
        case _:
            return "closed"
