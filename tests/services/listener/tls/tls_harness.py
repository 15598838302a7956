"""TLS servers on loopback, their files, and senders."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Authority, Issued

from services.listener.tls import TlsContexts, TlsSection
from services.listener.tls_socket import HandshakeError, TlsConnection, TlsSocket, accept_tls

WAIT_S = 10.0
# pynetdicom installs applications of DCMTK's names into the environment's bin folder.
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin"


def tool(name: str) -> str:
    """The path of a peer from the system."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{name} is not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"{name} is not installed")
    return found


class Clock:
    """Time that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Files:
    """The files of a server, and contexts of them."""

    def __init__(self, folder: Path, authority: Authority, issued: Issued) -> None:
        self.folder, self.authority = folder, authority
        self.cert, self.key = issued.write(folder, "server")
        self.ca = authority.write(folder)
        self.clock = Clock()
        self.reloads: list[bool] = []

    def contexts(self, **options: object) -> TlsContexts:
        settings = {"mode": "on", "cert_file": self.cert, "key_file": self.key, **options}
        return TlsContexts(TlsSection.model_validate(settings), on_reload=self.reloads.append, monotonic=self.clock)

    def client(self, issued: Issued | None = None, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        for name, version in versions.items():
            setattr(context, name, version)
        if issued is not None:
            context.load_cert_chain(*issued.write(self.folder, "client"))
        return context


class Echoing:
    """Accepts TLS connections, and sends back what comes."""

    def __init__(self, contexts: TlsContexts) -> None:
        self.contexts = contexts
        self.accepted: list[TlsConnection] = []
        self.refused: list[str] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self.served = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self.listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connected,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connected: socket.socket) -> None:
        try:
            connection = accept_tls(connected, self.contexts)
        except HandshakeError as error:
            self.refused.append(error.reason)
            self.served.release()
            return
        self.accepted.append(connection)
        self.served.release()
        connection.socket.settimeout(WAIT_S)
        buffer = bytearray(4096)
        with contextlib.suppress(OSError):
            while count := connection.socket.recv_into(buffer):
                connection.socket.sendall(bytes(buffer[:count]))
            connection.socket.shutdown(socket.SHUT_RDWR)
        connection.socket.close()

    def refusal(self) -> str:
        """Why the latest connection was refused."""
        assert self.served.acquire(timeout=WAIT_S)
        [reason] = self.refused
        return reason

    def connection(self) -> TlsConnection:
        """The latest connection that was accepted."""
        assert self.served.acquire(timeout=WAIT_S), self.refused
        assert not self.refused
        return self.accepted[-1]

    def connect(self, client: ssl.SSLContext) -> ssl.SSLSocket:
        connected = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        try:
            return client.wrap_socket(connected, server_hostname="127.0.0.1")
        except BaseException:
            connected.close()
            raise

    def s_client(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{self.port}", *options],
            input="",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def stop(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        self.listening.close()


Serve = Callable[[TlsContexts], Echoing]


def echo(client: ssl.SSLSocket, data: bytes = b"A-ASSOCIATE-RQ") -> None:
    client.sendall(data)
    received = b""
    while len(received) < len(data):
        received += client.recv(len(data) - len(received))
    assert received == data


def served_fingerprint(client: ssl.SSLSocket) -> str:
    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return hashlib.sha256(certificate).hexdigest()


@contextlib.contextmanager
def opened(files: Files, **wrapping: bool) -> Iterator[tuple[TlsSocket, ssl.SSLSocket]]:
    """The listener's and the sender's end of a connection."""
    near, far = socket.socketpair()
    accepted: list[TlsConnection] = []
    accepting = threading.Thread(target=lambda: accepted.append(accept_tls(far, files.contexts())))
    accepting.start()
    client_context = files.client()
    client_context.sslsocket_class = TlsSocket
    with client_context.wrap_socket(near, server_hostname="127.0.0.1", **wrapping) as client:
        accepting.join(WAIT_S)
        with accepted[0].socket as listener:
            for end in (listener, client):
                end.settimeout(WAIT_S)
            yield listener, client
