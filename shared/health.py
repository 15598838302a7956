"""The monitoring port: /metrics for Prometheus, /livez and /readyz for an orchestrator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

# The work that the calling task, or its thread of `asyncio.to_thread`, is part of.
_WORK: ContextVar[object | None] = ContextVar("work", default=None)


@dataclass(slots=True)
class Health:
    """What a service says of itself.

    `ready` is set once start-up is done. `checks` are named conditions for readiness. Work that may
    hang calls `progress()`; a service with work under way and no progress for `stuck_after_s` is
    not alive. Each `work()` counts by itself, so one that moves on does not hide one that hangs.
    """

    stuck_after_s: float = 1800.0
    clock: Callable[[], float] = time.monotonic
    ready: bool = False
    checks: dict[str, Callable[[], bool]] = field(default_factory=dict)
    _busy_since: dict[object | None, float] = field(default_factory=dict)
    _failed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Work under way, one of several. `progress` called within it, or in its threads, is its own."""
        work = object()
        with self._lock:
            self._busy_since[work] = self.clock()
        outer = _WORK.set(work)
        try:
            yield
        finally:
            _WORK.reset(outer)
            with self._lock:
                del self._busy_since[work]

    def progress(self, *, busy: bool) -> None:
        """Note that work moved on. `busy` says whether it is still under way; within `work()` its end says that."""
        work = _WORK.get()
        with self._lock:
            if work is None and not busy:
                self._busy_since.pop(work, None)
            elif work is None or work in self._busy_since:  # a thread may outlive its work
                self._busy_since[work] = self.clock()

    def fail(self) -> None:
        """Say that the service cannot go on: it is not alive from now on."""
        self._failed = True

    @property
    def failed(self) -> bool:
        """Whether `fail` was called."""
        return self._failed

    def is_alive(self) -> bool:
        """False if some work has been under way without progress for too long, or the service failed."""
        with self._lock:
            oldest = min(self._busy_since.values(), default=None)
        return not self._failed and (oldest is None or self.clock() - oldest < self.stuck_after_s)

    def failing(self) -> list[str]:
        """The names of what keeps the service from being ready."""
        names = [] if self.ready else ["starting"]
        return names + [name for name, check in self.checks.items() if not check()]


def monitoring_routes(health: Health, registry: CollectorRegistry = REGISTRY) -> list[Route]:
    """The three routes, to be mounted in any Starlette app."""

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def livez(_: Request) -> Response:
        alive = health.is_alive()
        return JSONResponse({"alive": alive}, status_code=200 if alive else 503)

    async def readyz(_: Request) -> Response:
        failing = await asyncio.to_thread(health.failing)
        return JSONResponse({"ready": not failing, "failing": failing}, status_code=503 if failing else 200)

    return [Route("/metrics", metrics), Route("/livez", livez), Route("/readyz", readyz)]


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one.

    Raises:
        ConfigurationError: the address is taken or cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections have it from here. asyncio sets it only for sockets that name TCP as their protocol, and
    # without it the body of an answer waits for the acknowledgement of its head: 40 ms each.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The URL of a bound socket: http, or unix:PATH."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def monitoring_server(health: Health, host: str, port: int) -> AsyncIterator[str]:
    """Serve the monitoring routes in the running event loop; yields the server's URL."""
    async with serve(Starlette(routes=list(monitoring_routes(health))), bind(host, port)) as url:
        yield url


@contextlib.asynccontextmanager
async def serve(app: Starlette, bound: socket.socket, *, grace_s: int | None = None) -> AsyncIterator[str]:
    """Serve an ASGI app on a bound socket in the running event loop; yields its URL once it answers.

    At the end requests under way are waited for: at most `grace_s`, or as long as they take.
    """
    config = uvicorn.Config(
        app,
        # Its own handlers write out the text of an unforeseen error, which may quote identity; the service's do not.
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Else uvicorn takes whatever a client on this machine writes into X-Forwarded-For for its address.
        proxy_headers=False,
        timeout_graceful_shutdown=grace_s,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(_serve(server, bound))
    try:
        while not server.started:
            if task.done():
                await task
                raise ConfigurationError("the HTTP server did not start")
            await asyncio.sleep(0.01)
        yield url_of(bound)
    finally:
        server.should_exit = True
        await task
        bound.close()


async def _serve(server: uvicorn.Server, bound: socket.socket) -> None:
    # The service, not uvicorn, owns the signals.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    await server.serve(sockets=[bound])


def write_endpoints(path: Path | None, endpoints: dict[str, object]) -> None:
    """Write a service's bound addresses for its supervisor, atomically. `pid` is added."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({**endpoints, "pid": os.getpid()}, indent=2) + "\n")
    os.replace(temporary, path)
