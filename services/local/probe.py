"""Asking a service whether it is ready."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit


def answers_ok(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a GET of `url` is answered with 200."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
