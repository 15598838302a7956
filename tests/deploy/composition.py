"""What the tests of the deployment share: where its files lie, and whose settings each container has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from services.embedder.settings import EmbedderSettings
from services.explainer.settings import ExplainerSettings
from services.listener.settings import ListenerSettings
from services.query.settings import QuerySettings
from shared.settings import SimilisSettings

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
DEPLOY = ROOT / "deploy"

# What each container of ours builds its settings from. `topics` runs `similis topics create`.
SETTINGS: dict[str, type[SimilisSettings]] = {
    "topics": SimilisSettings,
    "listener": ListenerSettings,
    "embedder": EmbedderSettings,
    "explainer": ExplainerSettings,
    "query": QuerySettings,
}
SECRETS = {"SIMILIS_QDRANT__API_KEY": "a-key", "GRAFANA_ADMIN_PASSWORD": "a-password"}

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


def interpolate(text: str, given: Mapping[str, str]) -> str:
    """`text` with Compose's variables filled in: ${NAME}, ${NAME:-default} and ${NAME:?message}."""

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if given.get(name):
            return given[name]
        if match["kind"] == "-":
            return match["rest"]
        raise KeyError(name)

    return _VARIABLE.sub(value, text)
