"""What a collection or an alias may be called: a name that is safe as a folder's and in a URL."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from shared.errors import ConfigurationError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")

LIVE_ALIAS: Final = "live"
"""Stands for the collection of frames that is searched; without it, that of the configured backbone is."""


def require_name(name: str) -> str:
    """The name itself.

    Raises:
        ConfigurationError: it cannot name a collection or an alias.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"{name!r} cannot name a collection or an alias")
    return name


def require_known(collection: str, known: Collection[str]) -> None:
    """Before something is done to a collection of `known` names.

    Raises:
        ConfigurationError: it is none of them.
    """
    if collection not in known:
        raise ConfigurationError(f"there is no collection {collection!r}")


def require_unused(collection: str, targets: Mapping[str, str]) -> None:
    """Before a collection is dropped; `targets` are the aliases and what they stand for.

    Raises:
        ConfigurationError: an alias stands for it.
    """
    for alias, target in targets.items():
        if target == collection:
            raise ConfigurationError(f"the alias {alias!r} stands for the collection {collection!r}: switch it first")
