"""What a Qdrant server's refusals become."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.errors import ConfigurationError, IndexUnavailableError, PermanentError, SimilisError
from shared.settings import QdrantSettings
from shared.vector_index import open_index


@pytest.fixture
def refusing() -> Iterator[ThreadingHTTPServer]:
    """A server that answers everything with its `status`."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status": {"error": "no"}, "time": 0}'
            self.send_response(self.server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET  # noqa: N815 - the names are http.server's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, PermanentError),
        (401, ConfigurationError),
        (403, ConfigurationError),
        (500, IndexUnavailableError),
        (503, IndexUnavailableError),
    ],
)
def test_a_status_says_what_the_caller_must_do(
    refusing: ThreadingHTTPServer, status: int, expected: type[SimilisError]
) -> None:
    refusing.status = status
    settings = QdrantSettings(url=f"http://127.0.0.1:{refusing.server_port}", prefer_grpc=False, api_key="secret")
    index = open_index(settings, collection="frames", dim=8)
    with pytest.raises(expected) as caught:
        index.count()
    assert "secret" not in str(caught.value)
    index.close()


@pytest.mark.parametrize("prefer_grpc", [True, False])
def test_a_server_that_is_not_there_is_unavailable(prefer_grpc: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port = taken.getsockname()[1]
        settings = QdrantSettings(url=f"http://127.0.0.1:{port}", grpc_port=port, prefer_grpc=prefer_grpc, timeout_s=3)
        index = open_index(settings, collection="frames", dim=8)
        with pytest.raises(IndexUnavailableError):
            index.count()
        index.close()
