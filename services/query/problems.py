"""Errors as RFC 9457 problem details: every answer that is no success has this form.

What the client sent is not repeated in an answer, but for the path, percent-encoded: it may hold identity.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from services.query import metrics
from services.query.security import SECURITY_HEADERS
from shared import labels
from shared.errors import (
    ArchiveObjectCorruptError,
    ArchiveObjectMissingError,
    ArchiveUnavailableError,
    BrokerUnavailableError,
    IndexUnavailableError,
    InvalidVectorError,
    NotAnImageError,
    OversizedPixelsError,
    SimilisError,
    UndecodablePixelsError,
)
from shared.pixels.pool_frames import DecodersUnavailableError

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
# A body of many mistakes must not be answered with a larger one.
ERRORS_MAX: Final = 20
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class InvalidParameter(BaseModel):
    """One thing that is wrong with the request."""

    where: str = Field(description="Path to the value, such as body.limit.", examples=["query.limit"])
    detail: str = Field(examples=["Input should be less than or equal to 100"])


class ProblemDetails(BaseModel):
    """RFC 9457. `type` names the kind of problem and is stable."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:similis:problem:unknown-study",
                    "title": "Unknown study",
                    "status": 404,
                    "detail": "No study with this UID has been received.",
                    "instance": "/v1/studies/1.2.3",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for, percent-encoded.")
    errors: list[InvalidParameter] | None = Field(None, description=f"The first mistakes, at most {ERRORS_MAX}.")


class Problem(HTTPException):
    """An answer other than success. `kind` is the stable part of its type URI."""

    def __init__(self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers) if headers else None)
        self.kind = kind


def described(text: str) -> dict[str, Any]:
    """How the OpenAPI document tells of an answer with a problem document."""
    return {
        "description": text,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
    }


def busy(retry_after_s: int) -> Problem:
    """All workers are taken."""
    return Problem(
        503,
        "busy",
        "Too many requests are being worked on. Try again shortly.",
        headers={"Retry-After": str(retry_after_s)},
    )


def starting(retry_after_s: int) -> Problem:
    """The model is still being loaded."""
    return Problem(
        503, "starting", "The service is still loading its model.", headers={"Retry-After": str(retry_after_s)}
    )


READ_ONLY: Final[dict[int | str, dict[str, Any]]] = {
    403: described("The role does not cover this, or the service is set up to take neither labels nor requests.")
}

# Most particular first: the first class that fits an error decides.
_PIPELINE: Final[tuple[tuple[type[SimilisError], int, str], ...]] = (
    (OversizedPixelsError, 413, "image-too-large"),
    (NotAnImageError, 415, "not-an-image"),
    (UndecodablePixelsError, 422, "undecodable-pixels"),
    (InvalidVectorError, 422, "invalid-vector"),
    (ArchiveObjectMissingError, 404, "not-archived"),
    (ArchiveObjectCorruptError, 500, "archive-object-corrupt"),
    (IndexUnavailableError, 503, "index-unavailable"),
    (DecodersUnavailableError, 503, "decoders-unavailable"),
    (labels.UnknownClassError, 422, "unknown-class"),
    (labels.UnknownSeriesError, 404, "unknown-series"),
    (labels.UnknownInstanceError, 404, "unknown-instance"),
    (labels.UnknownFrameError, 404, "unknown-frame"),
    (labels.NotTakenError, 422, "not-taken"),
    (labels.MixedPatientsError, 409, "mixed-patients"),
    (labels.TooManyLabelsError, 409, "too-many-labels"),
    (ArchiveUnavailableError, 503, "archive-unavailable"),
    (BrokerUnavailableError, 503, "broker-unavailable"),
)
# These messages may name hosts, folders or keys: the log has them, the client gets these words.
_OUTAGE: Final = {
    "index-unavailable": "The vector index does not answer just now. Browsing still works; try the search again.",
    "decoders-unavailable": "No image can be decoded just now; try again shortly.",
    "archive-unavailable": "The archive cannot be read or written just now.",
    "broker-unavailable": "The explainer cannot be asked just now: Kafka does not answer, or none is set.",
    "archive-object-corrupt": "What the archive holds is not what was archived; it is not shown.",
    "not-archived": "The archive does not hold this object.",
}


def of_pipeline_error(error: SimilisError, retry_after_s: int) -> Problem:
    """The problem that tells a client about `error`."""
    for kind, status, slug in _PIPELINE:
        if isinstance(error, kind):
            headers = {"Retry-After": str(retry_after_s)} if status == 503 else None
            return Problem(status, slug, _OUTAGE.get(slug) or str(error), headers=headers)
    return Problem(500, "internal", "Something went wrong here. The log of the service says what.")


def install(app: FastAPI, *, retry_after_s: int) -> None:
    """Make every error of `app` a problem document."""

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        kind = error.kind if isinstance(error, Problem) else _slug(error.status_code)
        return _answer(request, error.status_code, kind, str(error.detail), headers=error.headers)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = [{"where": _where(found["loc"]), "detail": str(found["msg"])} for found in error.errors()[:ERRORS_MAX]]
        return _answer(request, 422, "invalid-request", "The request is not valid; see `errors`.", errors=errors)

    async def on_pipeline(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SimilisError)
        problem = of_pipeline_error(error, retry_after_s)
        if problem.status_code >= 500:
            log.warning("%s: %s", problem.kind, error)
        return _answer(request, problem.status_code, problem.kind, str(problem.detail), headers=problem.headers)

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected %s on %s", type(error).__name__, request.url.path, exc_info=error)
        detail = "Something went wrong here. The log of the service says what."
        # Starlette answers these outside of all other middleware, which would add the headers.
        return _answer(request, 500, "internal", detail, headers=dict(SECURITY_HEADERS))

    app.add_exception_handler(StarletteHTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(SimilisError, on_pipeline)
    app.add_exception_handler(Exception, on_anything)


def problem_answer(request: Request, problem: Problem) -> JSONResponse:
    """A problem's answer, for middleware outside of the exception handlers."""
    return _answer(request, problem.status_code, problem.kind, str(problem.detail), headers=problem.headers)


def _answer(
    request: Request,
    status: int,
    kind: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> JSONResponse:
    metrics.PROBLEMS.labels(kind).inc()
    body: dict[str, Any] = {
        "type": f"urn:similis:problem:{kind}",
        "title": kind.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": quote(request.scope["path"], safe="/:@!$&'()*+,;=", errors="replace"),
    }
    if errors is not None:
        body["errors"] = errors
    return JSONResponse(body, status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE)


def _where(place: Sequence[object]) -> str:
    """The path to a value. A name that the client made up is told only if it is a plain one."""
    return ".".join(name if _PLAIN_NAME.fullmatch(name) else "?" for name in map(str, place))


def _slug(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "-").replace("'", "")
    except ValueError:
        return f"http-{status}"
