"""The ASGI app: routes, middleware, problem details, the page. Connects to nothing by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from services.query import documented, middleware, problems
from services.query.access.access import open_access
from services.query.access.described import describe_access
from services.query.access.middleware import AccessControl
from services.query.audit.log import AuditLog
from services.query.audit.middleware import Audited
from services.query.client_address import ClientAddresses
from services.query.rate_limits.middleware import FailedSignIns, RateLimits
from services.query.routes import (
    about,
    events,
    explanations,
    images,
    labels,
    matches,
    searches,
    session,
    studies,
    validation,
)
from services.query.settings import QuerySection
from shared.events import RESEARCH_USE_ONLY
from shared.health import Health, monitoring_routes

STATIC: Final = Path(__file__).resolve().parent / "static"
DESCRIPTION: Final = (
    "Similar cases, predictions and saliency maps. **Research use only**: nothing here is a diagnosis that a "
    "clinician has made, and no answer carries a patient's identity.\n\n"
    "Every error is an RFC 9457 problem document whose `type` is stable."
)
PROBLEM_STATUSES: Final = {
    401: "Nobody is signed in, or the key or token is not taken; see WWW-Authenticate.",
    403: "The role does not cover this.",
    400: "The body is no JSON, or not the form that the route takes.",
    421: "The Host header names none of the allowed hosts.",
    404: "Unknown study, series, instance, frame, map, task, label, request or route.",
    413: "The body is too large.",
    415: "The upload is no DICOM, PNG or JPEG image.",
    422: "The request is not valid, or the image cannot be decoded.",
    500: "An error of the service.",
    504: "The search took too long.",
    429: "Too many requests of one user or address; see Retry-After.",
    503: "Starting, busy, or the index, the archive or the OIDC provider is away; see Retry-After.",
}


def build_app(settings: QuerySection, health: Health, audit: AuditLog | None = None) -> FastAPI:
    """The app, not ready yet: `app.state.parts` is set once the model is loaded.

    Raises:
        ConfigurationError: what says who may come in cannot be used, or a trusted proxy is no address or network.
    """
    access = open_access(settings.auth, host=settings.host, retry_after_s=settings.retry_after_s)
    app = FastAPI(
        title="Similis query API",
        version="1",
        summary="Research use only.",
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        # The interactive pages load scripts from elsewhere; the document itself is enough.
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
        # A redirect's Location would repeat the Host that the client sent.
        redirect_slashes=False,
        responses={status: problems.described(text) for status, text in PROBLEM_STATUSES.items()},
        routes=list(monitoring_routes(health)),
    )
    app.state.parts = None
    app.state.access = access
    app.state.retry_after_s = settings.retry_after_s
    for router in (
        searches.router,
        matches.router,
        studies.router,
        events.router,
        images.router,
        labels.router,
        explanations.router,
        about.router,
        validation.router,
        session.router,
    ):
        app.include_router(router)
    app.add_api_route("/", _page, include_in_schema=False, response_class=FileResponse)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app, retry_after_s=settings.retry_after_s)
    # The last one added is the outermost.
    app.add_middleware(
        middleware.BodyLimit, body_max_bytes=settings.body_max_bytes, upload_max_bytes=settings.upload_max_bytes
    )
    app.add_middleware(middleware.WholeAnswers)
    clients = ClientAddresses(settings.trusted_proxies)
    app.add_middleware(RateLimits, section=settings.rate_limit, clients=clients)
    if access is not None:
        app.add_middleware(AccessControl, access=access)
    app.add_middleware(FailedSignIns, section=settings.rate_limit, clients=clients)
    if audit is not None:
        app.add_middleware(Audited, log=audit, clients=clients)
    app.add_middleware(middleware.PlainPaths)
    app.add_middleware(middleware.AllowedHosts, allowed=middleware.allowed_hosts(settings.host, settings.allowed_hosts))
    app.add_middleware(middleware.SecurityHeaders)
    app.add_middleware(middleware.RequestMetrics)
    _complete_openapi(app)
    return app


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _complete_openapi(app: FastAPI) -> None:
    """Name the problem document once among the components, say who may do what, and mark the notice."""
    plain = app.openapi

    def openapi() -> dict[str, object]:
        document = plain()
        schemas = document["components"]["schemas"]
        problem = problems.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemDetails"] = problem
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        documented.complete_examples(document)
        documented.describe_answers(document)
        describe_access(document)
        document["info"]["x-notice"] = RESEARCH_USE_ONLY
        return document

    app.openapi = openapi  # type: ignore[method-assign]
