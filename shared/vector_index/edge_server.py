"""`similis index`: the one process that owns the embedded engine, behind a Unix socket.

POST /v1/<collection>/<operation>, /owner/<operation>, msgpack in and out (see `wire`)
400 malformed   409 another vector length, no such collection   413 too large   422 invalid vector   503 engine failed
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket as sockets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.errors import ConfigurationError, InvalidVectorError, PipelineError
from shared.health import Health, monitoring_routes, monitoring_server, serve, write_endpoints
from shared.logs import configure_logging
from shared.vector_index import metrics
from shared.vector_index.edge_owner import EdgeOwner
from shared.vector_index.edge_settings import IndexSection, IndexSettings
from shared.vector_index.filters import is_empty, require_keyword
from shared.vector_index.wire import (
    MEDIA_TYPE,
    field_from_wire,
    filter_from_wire,
    hits_to_wire,
    ids_from_wire,
    pack,
    points_from_wire,
    points_to_wire,
    unpack,
    vector_from_wire,
)

log = logging.getLogger(__name__)
Message = dict[str, Any]
_SOCKET_PATH_MAX_BYTES = 107  # sockaddr_un of Linux, less the closing zero


def run(
    data_dir: Path,
    socket: Path,
    *,
    monitoring_host: str,
    monitoring_port: int,
    endpoint_file: Path | None,
) -> None:
    """Serve until SIGTERM or SIGINT, then flush and return.

    Raises:
        ConfigurationError: another process owns `data_dir` or answers on `socket`, or an address cannot be bound.
    """
    settings = IndexSettings()
    configure_logging("index", log_format=settings.log_format, level=settings.log_level)
    asyncio.run(_serve(data_dir, socket, settings.index, (monitoring_host, monitoring_port), endpoint_file))


async def _serve(
    data_dir: Path, socket: Path, settings: IndexSection, monitoring: tuple[str, int], endpoint_file: Path | None
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    health = Health(stuck_after_s=settings.stuck_after_s)
    # The folder's lock comes first: only its holder may replace what a killed owner left behind.
    owner = EdgeOwner(data_dir, settings, health)
    try:
        with _bound(socket) as bound:
            await owner.open_existing()
            async with (
                serve(build_app(owner, health, settings), bound, grace_s=settings.shutdown_grace_s),
                monitoring_server(health, *monitoring) as url,
                _background(owner.tidy_for_ever()),
            ):
                health.ready = True
                write_endpoints(endpoint_file, {"metrics": f"{url}/metrics"})
                log.info("the vector index in %s answers on %s", data_dir, socket)
                await stop.wait()
    finally:
        await owner.close()
    log.info("the vector index is flushed and closed")


def build_app(owner: EdgeOwner, health: Health, settings: IndexSection) -> Starlette:
    """The ASGI app: the operations and the monitoring routes."""

    async def answer(request: Request) -> Response:
        name = request.path_params["operation"]
        operation = _operation(name, request.path_params.get("collection"))
        if operation is None:
            return Response(f"no operation {name!r}", status_code=404)
        started = time.perf_counter()
        try:
            body = await _body(request, settings.max_request_bytes)
            return Response(pack(await operation(owner, unpack(body))), media_type=MEDIA_TYPE)
        except _TooLargeError as error:
            return _refusal(413, name, "malformed", error)
        except InvalidVectorError as error:
            return _refusal(422, name, "vector", error)
        except ConfigurationError as error:
            return _refusal(409, name, "dimension", error)
        except PipelineError as error:
            log.warning("%s failed: %s", name, error)
            return _refusal(503, name, "engine", error)
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            return _refusal(400, name, "malformed", error)
        finally:
            metrics.REQUEST_SECONDS.labels(name).observe(time.perf_counter() - started)

    return Starlette(
        routes=[
            Route("/v1/{collection}/{operation}", answer, methods=["POST"]),
            Route("/owner/{operation}", answer, methods=["POST"]),
            *monitoring_routes(health),
        ]
    )


def _operation(name: str, collection: str | None) -> Callable[[EdgeOwner, Message], Awaitable[Message]] | None:
    if collection is None:
        return _OWNER_OPERATIONS.get(name)
    of_collection = _OPERATIONS.get(name)
    return None if of_collection is None else lambda owner, message: of_collection(owner, collection, message)


class _TooLargeError(Exception):
    """A request's body is over the limit."""


async def _body(request: Request, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _TooLargeError(f"more than {limit_bytes} bytes")
    return bytes(body)


def _refusal(status: int, operation: str, kind: str, error: Exception) -> Response:
    metrics.ERRORS.labels(operation, kind).inc()
    return Response(str(error), status_code=status, media_type="text/plain")


async def _upsert(owner: EdgeOwner, collection: str, message: Message) -> Message:
    await owner.upsert(collection, int(message["dim"]), points_from_wire(message))
    return {}


async def _insert(owner: EdgeOwner, collection: str, message: Message) -> Message:
    await owner.upsert(collection, int(message["dim"]), points_from_wire(message), only_new=True)
    return {}


async def _search(owner: EdgeOwner, collection: str, message: Message) -> Message:
    vector, where, limit = vector_from_wire(message["vector"]), filter_from_wire(message["where"]), message["limit"]
    hits = await owner.call(
        collection, int(message["dim"]), lambda engine: engine.search(vector, limit=limit, where=where)
    )
    return hits_to_wire(hits)


async def _search_studies(owner: EdgeOwner, collection: str, message: Message) -> Message:
    vector, where, limit = vector_from_wire(message["vector"]), filter_from_wire(message["where"]), message["limit"]
    hits = await owner.call(
        collection, int(message["dim"]), lambda engine: engine.search_studies(vector, limit=limit, where=where)
    )
    return hits_to_wire(hits)


async def _retrieve(owner: EdgeOwner, collection: str, message: Message) -> Message:
    ids = ids_from_wire(message["ids"])
    return points_to_wire(await owner.call(collection, int(message["dim"]), lambda engine: engine.retrieve(ids)))


async def _scroll(owner: EdgeOwner, collection: str, message: Message) -> Message:
    where, limit = filter_from_wire(message["where"]), message["limit"]
    after = None if message["after"] is None else UUID(bytes=message["after"])
    points = await owner.call(
        collection, int(message["dim"]), lambda engine: engine.scroll(limit=limit, where=where, after=after)
    )
    return points_to_wire(points)


async def _count(owner: EdgeOwner, collection: str, message: Message) -> Message:
    where = filter_from_wire(message["where"])
    return {"count": await owner.call(collection, int(message["dim"]), lambda engine: engine.count(where))}


async def _facet(owner: EdgeOwner, collection: str, message: Message) -> Message:
    field, where = field_from_wire(message["field"]), filter_from_wire(message["where"])
    require_keyword(field)
    return {"counts": await owner.call(collection, int(message["dim"]), lambda engine: engine.facet(field, where))}


async def _delete(owner: EdgeOwner, collection: str, message: Message) -> Message:
    where = filter_from_wire(message["where"])
    if is_empty(where):
        raise ValueError("an empty filter would delete everything")
    await owner.delete(collection, int(message["dim"]), where)
    return {}


async def _get_alias(owner: EdgeOwner, message: Message) -> Message:
    return {"collection": await owner.get_alias(str(message["alias"]))}


async def _switch_alias(owner: EdgeOwner, message: Message) -> Message:
    await owner.switch_alias(str(message["alias"]), str(message["collection"]))
    return {}


async def _collections(owner: EdgeOwner, message: Message) -> Message:
    return {"collections": owner.collections()}


async def _drop(owner: EdgeOwner, message: Message) -> Message:
    await owner.drop(str(message["collection"]))
    return {}


async def _snapshot(owner: EdgeOwner, message: Message) -> Message:
    return {"points": await owner.snapshot(Path(message["target"]))}


_OPERATIONS: dict[str, Callable[[EdgeOwner, str, Message], Awaitable[Message]]] = {
    "upsert": _upsert,
    "insert": _insert,
    "search": _search,
    "search_studies": _search_studies,
    "retrieve": _retrieve,
    "scroll": _scroll,
    "count": _count,
    "facet": _facet,
    "delete": _delete,
}
_OWNER_OPERATIONS: dict[str, Callable[[EdgeOwner, Message], Awaitable[Message]]] = {
    "get_alias": _get_alias,
    "switch_alias": _switch_alias,
    "collections": _collections,
    "drop": _drop,
    "snapshot": _snapshot,
}


@contextlib.contextmanager
def _bound(path: Path) -> Iterator[sockets.socket]:
    """A Unix socket that only this user may open; removed at the end."""
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX_BYTES:
        raise ConfigurationError(f"the socket's path is longer than {_SOCKET_PATH_MAX_BYTES} bytes: {path}")
    bound = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        _remove_leftover(path)
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise ConfigurationError(f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(mask)
    try:
        yield bound
    finally:
        bound.close()
        path.unlink(missing_ok=True)


def _remove_leftover(path: Path) -> None:
    """Remove the socket of a killed owner, but never one that answers."""
    if not path.is_socket():
        return
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigurationError(f"another process answers on {path}")


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
