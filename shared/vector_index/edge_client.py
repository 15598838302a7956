"""The embedded engine from another process: a `VectorIndex` over the owner's Unix socket."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterable, Sequence
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


class EdgeClientIndex:
    """One collection of the process behind `socket`. Safe to use from several threads.

    It connects when it is first asked, and again after the owner was restarted.
    """

    def __init__(self, socket: Path, *, collection: str, dim: int, timeout_s: float) -> None:
        self._socket = socket
        self._collection = collection
        self._dim = dim
        self._timeouts = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        self._http = httpcore.ConnectionPool(uds=str(socket), max_connections=64, network_backend=_Backend())

    def upsert(self, points: Sequence[FramePoint]) -> None:
        checked_points(points, self._dim)
        for start in range(0, len(points), _POINTS_PER_REQUEST):
            self._ask("upsert", **points_to_wire(points[start : start + _POINTS_PER_REQUEST]))

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
        self._http.close()

    def _hits(self, operation: str, vector: Embedding, limit: int, where: Filter) -> list[Hit]:
        row = vector_to_wire(checked(vector, self._dim))
        return hits_from_wire(self._ask(operation, vector=row, limit=limit, where=filter_to_wire(where)))

    def _ask(self, operation: str, **message: Any) -> dict[str, Any]:
        try:
            response = self._http.request(
                "POST",
                f"http://index/v1/{self._collection}/{operation}",
                headers={"Content-Type": MEDIA_TYPE},
                content=pack({"dim": self._dim, **message}),
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
