"""The aliases of the embedded engine: a small file in its owner's folder."""

from __future__ import annotations

import json
from pathlib import Path

from shared.errors import ConfigurationError
from shared.vector_index.edge_folder import write_lasting


class AliasFile:
    """`aliases.json` in a data folder; only the owner of the folder writes it."""

    def __init__(self, data_dir: Path) -> None:
        """Read it.

        Raises:
            ConfigurationError: it is not such a file.
        """
        self._path = data_dir / "aliases.json"
        self._targets: dict[str, str] = {}
        if self._path.exists():
            try:
                self._targets = {str(alias): str(name) for alias, name in json.loads(self._path.read_text()).items()}
            except (ValueError, AttributeError) as error:
                raise ConfigurationError(f"{self._path} holds no aliases: {error}") from error

    def get(self, alias: str) -> str | None:
        """The collection that an alias stands for."""
        return self._targets.get(alias)

    def all(self) -> dict[str, str]:
        """Every alias and its collection."""
        return dict(self._targets)

    def switch(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection, lastingly, and for readers only once it lasts."""
        targets = {**self._targets, alias: collection}
        write_lasting(self._path, json.dumps(targets, indent=1, sort_keys=True).encode())
        self._targets = targets
