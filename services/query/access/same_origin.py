"""Whether a request that a cookie opens was made by our own page (cross-site request forgery).

The cookie is SameSite=Strict already, but a "site" leaves the port out, so any page of this host would do.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_of_own_page(request: HTTPConnection) -> bool:
    """Whether the browser says that our own page made the request: no word from it is not enough."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    # An older browser. The scheme is not known behind a proxy; host and port are.
    return origin is not None and _netloc(origin) == request.headers.get("host", "").lower() != ""


def is_of_another_page(request: HTTPConnection) -> bool:
    """Whether the browser says that another page made the request. Without a browser there is nothing to say."""
    return ("sec-fetch-site" in request.headers or "origin" in request.headers) and not is_of_own_page(request)


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
