"""A client of a Qdrant server, and what its errors mean here."""

from __future__ import annotations

import logging
from typing import Final

import grpc
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from shared.errors import ConfigurationError, IndexUnavailableError, PermanentError, SimilisError
from shared.settings import QdrantSettings

log = logging.getLogger(__name__)

ENGINE_ERRORS: Final = (grpc.RpcError, ApiException, QdrantException, httpx.HTTPError)
"""What the client raises."""


def connected(settings: QdrantSettings) -> QdrantClient:
    """A client of the server at `settings.url`; nothing is asked of it yet.

    Raises:
        ConfigurationError: the URL is none.
    """
    url = settings.url or ""
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is not None and not url.startswith("https://"):
        log.warning("the key of the vector engine travels unencrypted to %s", url)
    try:
        return QdrantClient(
            url=url,
            prefer_grpc=settings.prefer_grpc,
            grpc_port=settings.grpc_port,
            # A whole number: the client rounds up.
            timeout=max(1, round(settings.timeout_s)),
            headers={"api-key": key} if key is not None else None,
            check_compatibility=False,
        )
    except ValueError as error:
        raise ConfigurationError(f"SIMILIS_QDRANT__URL={url!r}: {error}") from error


def code_of(error: Exception) -> int | grpc.StatusCode | None:
    """The status of an answer, by HTTP or gRPC; None where there was no answer."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    if isinstance(error, grpc.Call):
        code: grpc.StatusCode = error.code()
        return code
    return None


_REFUSED = (
    400,
    422,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
_FORBIDDEN = (401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def translate(error: Exception) -> SimilisError:
    """What an error of the client means to the caller."""
    code = code_of(error)
    if isinstance(error, grpc.Call):
        text = str(error.details())
    elif isinstance(error, ResponseHandlingException):
        text = str(error.source)
    else:
        text = str(error)
    if code in _FORBIDDEN:
        return ConfigurationError(f"the vector engine refuses the key in SIMILIS_QDRANT__API_KEY: {text}")
    if code in _REFUSED:
        return PermanentError(f"the vector engine refused the request: {text}")
    return IndexUnavailableError(f"the vector engine did not answer: {text}")
