"""The embedded engine from another process: a `VectorIndex` over the owner's Unix socket."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpcore

from shared.errors import ConfigurationError, IndexUnavailableError, InvalidVectorError, PermanentError
from shared.vector_index.filters import is_empty, require_keyword
from shared.vector_index.port import Embedding, Field, Filter, FramePoint, Hit
from shared.vector_index.vectors import checked, checked_points
from shared.vector_index.wire import (
    MEDIA_TYPE,
    filter_to_wire,
    hits_from_wire,
    ids_to_wire,
    pack,
    points_from_wire,
    points_to_wire,
    unpack,
    vector_to_wire,
)

_POINTS_PER_REQUEST = 2_000


class _Backend(httpcore.SyncBackend):
    """Connects only where somebody listens: httpcore leaves the socket of a refused connection open."""

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
            probe.settimeout(timeout)
            try:
                probe.connect(path)
            except OSError as error:
                raise httpcore.ConnectError(str(error)) from error
        return super().connect_unix_socket(path, timeout, socket_options)


class _Owner:
    """The process behind a socket. It is connected to when first asked, and again after it was restarted."""

    def __init__(self, socket: Path, *, timeout_s: float) -> None:
        self._socket = socket
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        self._http = httpcore.ConnectionPool(uds=str(socket), max_connections=64, network_backend=_Backend())

    def ask(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one message."""
        operation = path.rpartition("/")[2]
        try:
            response = self._http.request(
                "POST",
                f"http://index/{path}",
                headers={"Content-Type": MEDIA_TYPE},
                content=pack(message),
                extensions={"timeout": self._timeouts},
            )
        except httpcore.TimeoutException as error:
            raise IndexUnavailableError(f"the vector index did not answer {operation} in time") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise IndexUnavailableError(f"no vector index answers on {self._socket}: {error}") from error
        text = "" if response.status == 200 else response.content.decode(errors="replace")
        match response.status:
            case 200:
                return unpack(response.content)
            case 422:
                raise InvalidVectorError(text)
            case 409:
                raise ConfigurationError(text)
            case status if status >= 500:
                raise IndexUnavailableError(text)
            case status:
                raise PermanentError(f"the vector index refused {operation} ({status}): {text}")

    def close(self) -> None:
        """Close every connection."""
        self._http.close()


class EdgeClientIndex:
    """One collection of the process behind `socket`. Safe to use from several threads.

    It connects when it is first asked, and again after the owner was restarted.
    """

    def __init__(self, socket: Path, *, collection: str, dim: int, timeout_s: float) -> None:
        self._owner = _Owner(socket, timeout_s=timeout_s)
        self._collection = collection
        self._dim = dim

    def upsert(self, points: Sequence[FramePoint]) -> None:
        self._store("upsert", points)

    def insert(self, points: Sequence[FramePoint]) -> None:
        self._store("insert", points)

    def search(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        return self._hits("search", vector, limit, where)

    def search_studies(self, vector: Embedding, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        return self._hits("search_studies", vector, limit, where)

    def retrieve(self, ids: Sequence[UUID]) -> list[FramePoint]:
        return points_from_wire(self._ask("retrieve", ids=ids_to_wire(ids)))

    def scroll(self, *, limit: int, where: Filter = Filter(), after: UUID | None = None) -> list[FramePoint]:
        cursor = None if after is None else after.bytes
        return points_from_wire(self._ask("scroll", limit=limit, where=filter_to_wire(where), after=cursor))

    def count(self, where: Filter = Filter()) -> int:
        return int(self._ask("count", where=filter_to_wire(where))["count"])

    def facet(self, field: Field, where: Filter = Filter()) -> dict[str, int]:
        require_keyword(field)
        counts: dict[str, int] = self._ask("facet", field=field, where=filter_to_wire(where))["counts"]
        return counts

    def delete(self, where: Filter) -> None:
        if is_empty(where):
            raise ValueError("an empty filter would delete everything")
        self._ask("delete", where=filter_to_wire(where))

    def close(self) -> None:
        self._owner.close()

    def _hits(self, operation: str, vector: Embedding, limit: int, where: Filter) -> list[Hit]:
        row = vector_to_wire(checked(vector, self._dim))
        return hits_from_wire(self._ask(operation, vector=row, limit=limit, where=filter_to_wire(where)))

    def _store(self, operation: str, points: Sequence[FramePoint]) -> None:
        checked_points(points, self._dim)
        for start in range(0, len(points), _POINTS_PER_REQUEST):
            self._ask(operation, **points_to_wire(points[start : start + _POINTS_PER_REQUEST]))

    def _ask(self, operation: str, **message: Any) -> dict[str, Any]:
        return self._owner.ask(f"v1/{self._collection}/{operation}", {"dim": self._dim, **message})


class EdgeClientAliases:
    """`Aliases` of the process behind `socket`. Safe to use from several threads."""

    def __init__(self, socket: Path, *, timeout_s: float) -> None:
        self._owner = _Owner(socket, timeout_s=timeout_s)

    def get(self, alias: str) -> str | None:
        name: str | None = self._owner.ask("owner/get_alias", {"alias": alias})["collection"]
        return name

    def switch(self, alias: str, collection: str) -> None:
        self._owner.ask("owner/switch_alias", {"alias": alias, "collection": collection})

    def collections(self) -> list[str]:
        names: list[str] = self._owner.ask("owner/collections", {})["collections"]
        return names

    def drop(self, collection: str) -> None:
        self._owner.ask("owner/drop", {"collection": collection})

    def close(self) -> None:
        self._owner.close()


def take_snapshot(socket: Path, target: Path, *, timeout_s: float) -> dict[str, int]:
    """Let the owner copy everything to `target`, a path of its own; how many points each collection holds there.

    Raises:
        ConfigurationError: `target` is there already or cannot be written.
        IndexUnavailableError: no owner answers, or its disk is full.
    """
    owner = _Owner(socket, timeout_s=timeout_s)
    try:
        points: dict[str, int] = owner.ask("owner/snapshot", {"target": str(target)})["points"]
        return points
    finally:
        owner.close()
