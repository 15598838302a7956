"""The HTTP server of STOW-RS: uvicorn, and what it does not guard against by itself.

uvicorn waits for a request's head without end, and trusts headers that say who the client is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.listener import metrics
from services.listener.access import AccessRules
from services.listener.audit import AuditLog
from services.listener.audit_messages import Peer
from services.listener.policies import sop_class_filter
from services.listener.settings import ListenerSection, StowSection
from services.listener.store import StoreObject
from services.listener.stow import StowDoor
from services.listener.tally import Tally
from services.listener.tls import TlsContexts
from shared.errors import ConfigurationError
from shared.health import bind

log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_CONNECTIONS_PER_REQUEST: Final = 4
_MAX_HEAD_BYTES: Final = 16 << 10
_KEEP_ALIVE_S: Final = 5
_GRACE_S: Final = 5


@dataclass(frozen=True, slots=True)
class Gate:
    """Which connections are served, and how long each may take for the head of a request.

    `reason_to_refuse` gives a word for why a peer address is not welcome, or None; `turned_away` is
    told of each connection that is closed for a reason.
    """

    reason_to_refuse: Callable[[str], str | None]
    turned_away: Callable[[str, str], None]
    max_connections: int
    head_timeout_s: float
    fingerprints: frozenset[str] = frozenset()


class GuardedProtocol(H11Protocol):
    """A connection that is closed at once if it is not welcome, and in time if its request does not come."""

    def __init__(self, gate: Gate, config: uvicorn.Config, server: uvicorn.Server) -> None:
        super().__init__(config, server.server_state, {})
        self._gate = gate
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected, after the TLS handshake if there is one."""
        super().connection_made(transport)
        if (reason := self._reason_to_refuse(transport)) is not None:
            log.warning("STOW-RS: a connection from %s was closed: %s", self._peer_address, reason)
            metrics.STOW_REQUESTS.labels("refused").inc()
            self._gate.turned_away(self._peer_address, reason)
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A response has been written, though perhaps not been taken yet."""
        super().on_response_complete()
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: after a whole request it may still wait for the response."""
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete or self.scheme == "https":
            return False
        self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._stop_timer()
        super().connection_lost(exc)

    @property
    def _peer_address(self) -> str:
        return self.client[0] if self.client is not None else ""

    def _reason_to_refuse(self, transport: asyncio.Transport) -> str | None:
        if (reason := self._gate.reason_to_refuse(self._peer_address)) is not None:
            return reason
        if len(self.connections) > self._gate.max_connections:
            return "connection-limit"
        if self._gate.fingerprints:
            certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
            if hashlib.sha256(certificate).hexdigest() not in self._gate.fingerprints:
                return "client-certificate"
        return None

    def _watch(self) -> None:
        """While no request is under way, its head must come in time as a whole, and the last response be taken."""
        is_waiting = self.cycle is None or self.cycle.response_complete
        if not is_waiting:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._gate.head_timeout_s, self.transport.abort)

    def _stop_timer(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, gate: Gate, bound: socket.socket, tls: TlsContexts | None) -> None:
        super().__init__(config)
        self._gate = gate
        self._bound = bound
        self._tls = tls
        # The service, not uvicorn, owns the signals.
        self.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        secure: dict[str, Any] = {}
        if self._tls is not None:
            secure = {"ssl": _following(self._tls), "ssl_handshake_timeout": self._tls.handshake_timeout_s}
        accepting = await asyncio.get_running_loop().create_server(
            lambda: GuardedProtocol(self._gate, self.config, self), sock=self._bound, backlog=_BACKLOG, **secure
        )
        self.servers = [accepting]
        self.started = True


def _count_reload(taken: bool) -> None:
    metrics.TLS_RELOADS.labels("taken" if taken else "kept-old").inc()


def _following(contexts: TlsContexts) -> ssl.SSLContext:
    """A context whose handshakes are each made with the files' current certificates."""
    first = contexts.current()

    def use_current(connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = contexts.current()

    first.sni_callback = use_current
    return first


@contextlib.asynccontextmanager
async def serving(
    section: StowSection,
    app: Starlette,
    reason_to_refuse: Callable[[str], str | None],
    turned_away: Callable[[str, str], None],
) -> AsyncIterator[str]:
    """Serve `app` in the running event loop; yields its URL. At the end requests get a few seconds to finish.

    Raises:
        ConfigurationError: the address or the TLS files cannot be used.
    """
    tls = TlsContexts(section.tls, on_reload=_count_reload) if section.tls.mode == "on" else None
    gate = Gate(
        reason_to_refuse=reason_to_refuse,
        turned_away=turned_away,
        max_connections=section.max_requests * _CONNECTIONS_PER_REQUEST,
        head_timeout_s=section.body_timeout_s,
        fingerprints=tls.allowed_fingerprints if tls is not None else frozenset(),
    )
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )
    bound = bind(section.host, section.port or 0)
    with contextlib.closing(bound):
        server = _Server(config, gate, bound, tls)
        host, port = bound.getsockname()[:2]
        task = asyncio.create_task(server.serve())
        try:
            while not server.started:
                if task.done():
                    await task
                    raise ConfigurationError("the STOW-RS server did not start")
                await asyncio.sleep(0.01)
            scheme = "https" if tls is not None else "http"
            yield f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        finally:
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def stow_door(
    section: ListenerSection, store: StoreObject, *, numbers: Iterator[int], audit: AuditLog
) -> AsyncIterator[str | None]:
    """The whole of STOW-RS; yields its URL, or None where it is not asked for.

    Raises:
        ConfigurationError: its address, its TLS files or its token file cannot be used.
    """
    stow = section.stow
    if stow.port is None:
        yield None
        return
    # Called by a URL it has no called AE title; as a caller its title is in the allow-lists or is not.
    access = AccessRules(section.access.model_copy(update={"called_ae_titles": ("*",)}), ae_title=section.ae_title)

    def peer(address: str) -> Peer:
        return Peer(address, stow.ae_title, section.ae_title)

    def turned_away(address: str, why: str) -> None:
        audit.association_refused(peer(address), why)

    def reason_to_refuse(address: str) -> str | None:
        reject = access.check(calling_ae_title=stow.ae_title, called_ae_title=section.ae_title, peer_address=address)
        return reject.why if reject is not None else None

    def ended(number: int, address: str, tally: Tally) -> None:
        audit.association_ended(peer(address), tally.objects)
        store.open_studies.association_closed(number)

    door = StowDoor(
        stow,
        store,
        called_ae_title=section.ae_title,
        numbers=numbers,
        ended=ended,
        turned_away=turned_away,
        is_allowed=sop_class_filter(section.sop_classes),
    )
    try:
        async with serving(stow, door.app(), reason_to_refuse, turned_away) as url:
            yield url
    finally:
        await door.close()
