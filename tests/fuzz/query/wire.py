"""Requests as bytes, sent as they are: an HTTP client would mend them."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import Final

from tests.fuzz.query.answers import Answer, FindingError
from tests.fuzz.query.running import Service

PATIENCE_S: Final = 20.0
_TOLD_MAX: Final = 1500


def ask(service: Service, request: bytes, *, whole: bool = True) -> Answer | None:
    """Send a request on a connection of its own, and check its answer. None: there is none.

    Args:
        service: Who is asked.
        request: All bytes that are sent.
        whole: Whether HTTP demands an answer. If not, the connection is closed once none came in a moment.

    Raises:
        FindingError: the answer is not what it must be, or does not come.
    """
    method = request.split(b" ", 1)[0].decode("latin-1")[:20]
    told = f"{request[:_TOLD_MAX]!r}{'...' if len(request) > _TOLD_MAX else ''} ({len(request)} bytes)"
    try:
        answer = _exchange(service, request, method, PATIENCE_S if whole else 0.05)
    except TimeoutError:
        if whole:
            raise FindingError(f"no answer in {PATIENCE_S} s\n  asked: {told}") from None
        answer = None
    except (http.client.HTTPException, OSError) as error:
        # A server that refuses a body may close before it has read all of it, which resets the connection.
        if whole and len(request) < 100_000:
            raise FindingError(f"{type(error).__name__}: {error}\n  asked: {told}") from error
        answer = None
    if answer is None:
        service.answers[None] += 1
    else:
        service.check(answer, told)
    return answer


def _exchange(service: Service, request: bytes, method: str, patience_s: float) -> Answer:
    with socket.create_connection((service.host, service.port), timeout=PATIENCE_S) as connected:
        with contextlib.suppress(OSError):  # it has seen enough; what it answered may still be there
            connected.sendall(request)
        connected.settimeout(patience_s)
        response = http.client.HTTPResponse(connected, method=method)
        try:
            response.begin()
            headers = tuple((name.lower(), value) for name, value in response.getheaders())
            return Answer(response.status, headers, response.read(), method)
        finally:
            response.close()


def head(method: str, target: str, headers: list[tuple[str, str]], *, host: str = "localhost") -> bytes:
    """The head of a request, up to its empty line; the connection ends with the answer."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("utf-8", "replace")


def with_body(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """A request whose body is as long as it says."""
    return head(method, target, [*headers, ("Content-Length", str(len(body)))]) + body


def chunked(method: str, target: str, headers: list[tuple[str, str]], body: bytes, size: int) -> bytes:
    """A request whose body comes in chunks of `size` bytes."""
    chunks = (body[start : start + size] for start in range(0, len(body), size))
    framed = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    return head(method, target, [*headers, ("Transfer-Encoding", "chunked")]) + framed + b"0\r\n\r\n"
