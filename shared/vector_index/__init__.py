"""Vector search behind one port: a Qdrant server, the embedded Qdrant Edge engine, or an in-memory fake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from shared.errors import ConfigurationError
from shared.settings import QdrantSettings
from shared.vector_index.port import VectorIndex

__all__ = ["Level", "collection_name", "open_index", "serve_edge", "space_collection_name"]

Level = Literal["frames", "regions", "series", "studies"]
"""What a point of a collection stands for: a frame's class token; the mean patch token of a cell of a frame; the
normalised mean of a series' or a study's frames."""


def open_index(settings: QdrantSettings, *, collection: str, dim: int) -> VectorIndex:
    """The index of one collection of vectors of length `dim`; made on first use if it is not there.

    Nothing is asked of the engine here, so that a service can start before it.

    Raises:
        ConfigurationError: neither a server nor a socket is set.
    """
    # The engines' clients are imported where they are chosen: each is heavy, and one is enough.
    if settings.url is not None:
        from shared.vector_index.qdrant_server import QdrantServerIndex

        return QdrantServerIndex.connect(settings, collection=collection, dim=dim)
    if settings.socket is not None:
        from shared.vector_index.edge_client import EdgeClientIndex

        return EdgeClientIndex(settings.socket, collection=collection, dim=dim, timeout_s=settings.timeout_s)
    raise ConfigurationError(
        "no vector engine: set SIMILIS_QDRANT__URL (a Qdrant server) or SIMILIS_QDRANT__SOCKET "
        "(the socket of `similis index`)"
    )


def collection_name(backbone_id: str, level: Level = "frames") -> str:
    """The collection of a backbone's points of one level.

    Distinct ids that differ only in odd characters get distinct names.
    """
    return f"{level}-{_safe(backbone_id)}"


def space_collection_name(head_id: str) -> str:
    """The collection of frames in a task's own space: the projection is part of the head, so a new head has a new one.

    Its points have the ids and payloads of those in the backbone's collection of frames.
    """
    return f"task-{_safe(head_id)}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}_", name)


def serve_edge(
    data_dir: Path,
    socket: Path,
    *,
    monitoring_host: str = "127.0.0.1",
    monitoring_port: int = 0,
    endpoint_file: Path | None = None,
) -> None:
    """Own the embedded engine under `data_dir` and serve it on the Unix socket until SIGTERM or SIGINT.

    Writes {"metrics": URL} to `endpoint_file` once it is ready.

    Raises:
        ConfigurationError: another process owns `data_dir`, or an address cannot be bound.
    """
    from shared.vector_index.edge_server import run

    run(
        data_dir,
        socket,
        monitoring_host=monitoring_host,
        monitoring_port=monitoring_port,
        endpoint_file=endpoint_file,
    )
