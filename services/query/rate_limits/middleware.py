"""How often a client may ask, by the generic cell rate algorithm: so many requests at once, then evenly.

What is counted is in memory: each process counts its own, and a restart forgets.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Final, Literal

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from throttled import MemoryStore, RateLimiterType, RateLimitState, Throttled, per_min

from services.query import metrics
from services.query.audit.actions import SESSION_PATH
from services.query.client_address import ClientAddresses, group_of
from services.query.middleware import UPLOAD_PATHS
from services.query.principal import principal_of
from services.query.problems import Problem, problem_answer
from services.query.rate_limits.settings import RateLimitSection

Kind = Literal["searches", "uploads", "pictures", "writes", "others"]

_SEARCH_PATHS: Final = frozenset({"/v1/search", "/v1/search/batch", "/v1/matches"})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})


def kind_of(method: str, path: str) -> Kind | None:
    """The limit that a request falls under; None for what is not of the API."""
    if not path.startswith("/v1/"):
        return None
    if path in UPLOAD_PATHS:
        return "uploads"
    if path in _SEARCH_PATHS:
        return "searches"
    if method not in _READING:
        return "writes"
    return "pictures" if path.endswith(".png") else "others"


class RateLimits:
    """Answers with 429 whoever asks too often. Within authentication, which says who asks."""

    def __init__(self, app: ASGIApp, *, section: RateLimitSection, clients: ClientAddresses) -> None:
        self._app = app
        self._clients = clients
        most: dict[Kind, int] = {
            "searches": section.searches_per_minute,
            "uploads": section.uploads_per_minute,
            "pictures": section.pictures_per_minute,
            "writes": section.writes_per_minute,
            "others": section.others_per_minute,
        }
        self._limits = {kind: _limit(count, section.clients_max) for kind, count in most.items() if count}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        kind = kind_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        limit = self._limits.get(kind) if kind is not None else None
        if kind is None or limit is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        principal = principal_of(request)
        who = f"user {principal}" if principal else f"address {group_of(self._clients.of(scope))}"
        found = limit.limit(who)
        if found.limited:
            await problem_answer(request, _too_many(kind, found.state.retry_after))(scope, receive, send)
            return
        told = _told(kind, found.state)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *told]}
            await send(message)

        await self._app(scope, receive, with_headers)


class FailedSignIns:
    """Looks at no credentials of an address that has sent too many bad ones. Outside of authentication.

    The same credentials again are no further guess: a page whose session has ended asks for many pictures at once.
    Credentials that were taken before are looked at even then: who guesses must not lock out the users beside him.
    """

    def __init__(self, app: ASGIApp, *, section: RateLimitSection, clients: ClientAddresses) -> None:
        self._app = app
        self._clients = clients
        self._per_minute = section.failed_sign_ins_per_minute
        self._most = section.clients_max
        self._limit = _limit(self._per_minute, self._most) if self._per_minute else None
        self._last: OrderedDict[str, bytes] = OrderedDict()
        # By digest, latest last.
        self._taken: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        shown = _shown(scope) if scope["type"] == "http" else None
        if self._limit is None or shown is None:
            await self._app(scope, receive, send)
            return
        address = group_of(self._clients.of(scope))
        if shown not in self._taken and self._is_used_up(address):
            await problem_answer(Request(scope), self._refusal())(scope, receive, send)
            return

        async def checked() -> Message:
            message = await receive()
            # Many that wait for their bodies were let in before any of them failed.
            if message["type"] == "http.request" and shown not in self._taken and self._is_used_up(address):
                raise self._refusal()
            return message

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    self._taken.pop(shown, None)
                    self._failed(address, shown)
                elif shown and principal_of(Request(scope)):
                    self._keep(shown)
            await send(message)

        await self._app(scope, checked, watched)

    def _keep(self, shown: bytes) -> None:
        self._taken[shown] = None
        self._taken.move_to_end(shown)
        if len(self._taken) > self._most:
            self._taken.popitem(last=False)

    def _is_used_up(self, address: str) -> bool:
        return self._limit is not None and self._limit.peek(address).remaining < 1

    def _refusal(self) -> Problem:
        return _too_many("sign-ins", 60 / self._per_minute)

    def _failed(self, address: str, shown: bytes) -> None:
        if self._limit is None or (shown and self._last.get(address) == shown):
            return
        self._limit.limit(address)
        self._last[address] = shown
        self._last.move_to_end(address)
        if len(self._last) > self._most:
            self._last.popitem(last=False)


def _limit(per_minute: int, clients_max: int) -> Throttled:
    store = MemoryStore(options={"MAX_SIZE": clients_max})
    return Throttled(using=RateLimiterType.GCRA.value, quota=per_min(per_minute), store=store)


def _too_many(what: str, wait_s: float) -> Problem:
    metrics.RATE_LIMITED.labels(what).inc()
    headers = {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return Problem(429, "rate-limited", f"Too many {what}. Try again after a while.", headers=headers)


def _told(kind: Kind, state: RateLimitState) -> list[tuple[bytes, bytes]]:
    """The RateLimit header fields: draft-ietf-httpapi-ratelimit-headers-11."""
    return [
        (b"ratelimit-policy", f'"{kind}";q={state.limit};w=60'.encode("ascii")),
        (b"ratelimit", f'"{kind}";r={state.remaining};t={math.ceil(state.reset_after)}'.encode("ascii")),
    ]


def _shown(scope: Scope) -> bytes | None:
    """A digest of the credentials in a request; empty if they are in its body, None if there are none."""
    if (scope["method"], scope["path"]) == ("POST", SESSION_PATH):
        return b""
    shown = [value for name, value in scope["headers"] if name in _CREDENTIALS]
    return hashlib.sha256(b"\0".join(shown)).digest() if shown else None
