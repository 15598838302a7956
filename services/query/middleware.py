"""Around every request: size limit, security headers, metrics. Plain ASGI, so bodies stream."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.query import metrics
from services.query.problems import Problem, problem_answer
from services.query.security import SECURITY_HEADERS

log = logging.getLogger(__name__)

_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:/@]+))(?::[0-9]{1,5})?")
_ENCODED: Final = [(name.encode("ascii"), value.encode("ascii")) for name, value in SECURITY_HEADERS]
UPLOAD_PATHS: Final = frozenset({"/v1/search/upload", "/v1/matches/upload"})
# Multipart boundaries and part headers come on top of the file.
MULTIPART_OVERHEAD_BYTES: Final = 16_384


class BodyLimit:
    """Refuses a body that is too large: by its declared length, and while it arrives."""

    def __init__(self, app: ASGIApp, *, body_max_bytes: int, upload_max_bytes: int) -> None:
        self._app = app
        self._body_max = body_max_bytes
        self._upload_max = upload_max_bytes + MULTIPART_OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] in UPLOAD_PATHS
        most = self._upload_max if is_upload else self._body_max
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most or (declared.isdigit() and int(declared) > most):
                if is_upload:
                    metrics.UPLOADS.labels("too-large").inc()
                raise Problem(
                    413, "too-large", f"The body is larger than {most:,} bytes.", headers={"Connection": "close"}
                )
            return message

        await self._app(scope, counted, send)


def allowed_hosts(bound: str, named: Sequence[str]) -> frozenset[str]:
    """The hosts that requests may name. Without any set: the loopback's, or all where others can reach the service."""
    if named:
        return frozenset(host.strip("[]").lower() for host in named)
    try:
        is_loopback = bound == "localhost" or ip_address(bound).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        log.warning("any Host is answered, since the address is no loopback: set SIMILIS_QUERY__ALLOWED_HOSTS")
        return frozenset({"*"})
    return frozenset({"localhost", "127.0.0.1", "::1", bound.lower()})


class AllowedHosts:
    """Refuses a request for another host: a page under a rebound DNS name must not read from this service."""

    def __init__(self, app: ASGIApp, *, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and "*" not in self._allowed and not self._is_allowed(scope):
            problem = Problem(421, "unknown-host", "This service does not answer for the host that was asked for.")
            await problem_answer(Request(scope), problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1:
            return False
        found = _HOST.fullmatch(named[0])
        return found is not None and (found["v6"] or found["name"]) in self._allowed


class PlainPaths:
    """Refuses a path with a line end.

    The router's `$` matches before a last one, so `/v1/session%0A` would be routed as `/v1/session`, past whatever
    compares paths: rate limits, size limits, the audit log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and "\n" in scope["path"]:
            await problem_answer(Request(scope), Problem(404, "not-found", "Not Found"))(scope, receive, send)
            return
        await self._app(scope, receive, send)


class WholeAnswers:
    """Answers in full: nothing here is large, and a wrong Range would be answered in plain text by the framework."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        await self._app(scope, receive, send)


class SecurityHeaders:
    """Adds the security headers, and `no-store` to whatever does not say how long it keeps."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *_ENCODED]
                if all(name.lower() != b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class RequestMetrics:
    """Counts and times requests by route template; paths that match none are one label."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            template = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.REQUESTS.labels(template, method, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(template).observe(time.perf_counter() - started)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
