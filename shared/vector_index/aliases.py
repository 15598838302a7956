"""Aliases of collections: `open_aliases` chooses the adapter as `open_index` does."""

from __future__ import annotations

from shared.errors import ConfigurationError
from shared.settings import QdrantSettings
from shared.vector_index.names import LIVE_ALIAS
from shared.vector_index.port import Aliases

__all__ = ["LIVE_ALIAS", "Aliases", "open_aliases"]


def open_aliases(settings: QdrantSettings) -> Aliases:
    """The aliases of the engine that is set; nothing is asked of it here.

    Raises:
        ConfigurationError: neither a server nor a socket is set.
    """
    # The engines' clients are imported where they are chosen: each is heavy, and one is enough.
    if settings.url is not None:
        from shared.vector_index.qdrant_aliases import QdrantServerAliases

        return QdrantServerAliases.connect(settings)
    if settings.socket is not None:
        from shared.vector_index.edge_client import EdgeClientAliases

        return EdgeClientAliases(settings.socket, timeout_s=settings.timeout_s)
    raise ConfigurationError(
        "no vector engine: set SIMILIS_QDRANT__URL (a Qdrant server) or SIMILIS_QDRANT__SOCKET "
        "(the socket of `similis index`)"
    )
