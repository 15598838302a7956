"""A JSON document from the provider: bounded in time and size, and never from elsewhere."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any, Final

import httpcore

from services.query.access.settings import AuthSection, is_trustworthy

_FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)
_HEADERS: Final = (("Accept", "application/json"), ("Accept-Encoding", "identity"), ("User-Agent", "similis"))


class FetchError(Exception):
    """The document cannot be had. The text names the URL, which is of the settings or the provider."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetches documents of one provider. A redirect is not followed.

    Attributes:
        timeout_s: Longest one document may take, from the connection to its last byte.
        max_bytes: Largest document.
        trust: Whom TLS believes.
    """

    timeout_s: float
    max_bytes: int
    trust: ssl.SSLContext

    @classmethod
    def of(cls, settings: AuthSection) -> Fetch:
        """As set.

        Raises:
            OSError: `ca_file` cannot be read or holds no certificates.
        """
        trust = ssl.create_default_context()
        if settings.ca_file is not None:
            trust.load_verify_locations(settings.ca_file)
        return cls(settings.provider_timeout_s, settings.provider_max_bytes, trust)

    async def __call__(self, url: str) -> dict[str, Any]:
        """The JSON object at `url`.

        Raises:
            FetchError: not https, unreachable, too slow, too large, redirected, refused, or no JSON object.
        """
        if not is_trustworthy(url):
            raise FetchError(f"{url!r} is no https URL")
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                httpcore.AsyncConnectionPool(ssl_context=self.trust) as pool,
                pool.stream("GET", url, headers=_HEADERS) as answer,
            ):
                if answer.status != 200:
                    raise FetchError(f"{url} answers {answer.status}")
                body = b""
                async for part in answer.aiter_stream():
                    body += part
                    if len(body) > self.max_bytes:
                        raise FetchError(f"{url} sends more than {self.max_bytes} bytes")
        except TimeoutError as error:
            raise FetchError(f"{url} takes longer than {self.timeout_s} s") from error
        except (*_FAILURES, OSError) as error:
            raise FetchError(f"{url} cannot be read: {error}") from error
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise FetchError(f"{url} sends no JSON") from error
        if not isinstance(document, dict):
            raise FetchError(f"{url} sends no JSON object")
        return document
