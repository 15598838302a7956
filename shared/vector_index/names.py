"""What a collection or an alias may be called: a name that is safe as a folder's and in a URL."""

from __future__ import annotations

import re
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
