"""The aliases of a Qdrant server, its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from qdrant_client import QdrantClient, models

from shared.settings import QdrantSettings
from shared.vector_index.names import require_known, require_name, require_unused
from shared.vector_index.qdrant_connection import ENGINE_ERRORS, connected, translate

T = TypeVar("T")
_Step = models.CreateAliasOperation | models.RenameAliasOperation | models.DeleteAliasOperation


class QdrantServerAliases:
    """`Aliases` on a server, which exchanges them at once and lastingly."""

    def __init__(self, client: QdrantClient) -> None:
        self._client = client

    @classmethod
    def connect(cls, settings: QdrantSettings) -> QdrantServerAliases:
        """The aliases of the server at `settings.url`; nothing is asked of it yet."""
        return cls(connected(settings))

    def get(self, alias: str) -> str | None:
        return self._targets().get(alias)

    def switch(self, alias: str, collection: str) -> None:
        require_name(alias)
        require_known(collection, self.collections())
        drop = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)
        )
        # The server applies the list as one.
        steps: list[_Step] = [create] if self.get(alias) is None else [drop, create]
        self._ask(lambda: self._client.update_collection_aliases(change_aliases_operations=steps))

    def collections(self) -> list[str]:
        return sorted(each.name for each in self._ask(self._client.get_collections).collections)

    def drop(self, collection: str) -> None:
        require_known(collection, self.collections())
        # The server would remove the alias with it, without a word.
        require_unused(collection, self._targets())
        self._ask(lambda: self._client.delete_collection(collection))

    def close(self) -> None:
        self._client.close()

    def _targets(self) -> dict[str, str]:
        found = self._ask(self._client.get_aliases).aliases
        return {each.alias_name: each.collection_name for each in found}

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except ENGINE_ERRORS as error:
            raise translate(error) from error
