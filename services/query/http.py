"""The ASGI app: routes, middleware, problem details, the page. Connects to nothing by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from services.query import middleware, problems
from services.query.routes import about, events, explanations, images, labels, matches, searches, studies, validation
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
    421: "The Host header names none of the allowed hosts.",
    404: "Unknown study, series, instance, frame, map, task, label, request or route.",
    413: "The body is too large.",
    415: "The upload is no DICOM, PNG or JPEG image.",
    422: "The request is not valid, or the image cannot be decoded.",
    500: "An error of the service.",
    504: "The search took too long.",
    503: "Starting, busy, or the index or archive is away; see Retry-After.",
}


def build_app(settings: QuerySection, health: Health) -> FastAPI:
    """The app, not ready yet: `app.state.parts` is set once the model is loaded."""
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
        responses={status: problems.described(text) for status, text in PROBLEM_STATUSES.items()},
        routes=list(monitoring_routes(health)),
    )
    app.state.parts = None
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
    ):
        app.include_router(router)
    app.add_api_route("/", _page, include_in_schema=False, response_class=FileResponse)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app, retry_after_s=settings.retry_after_s)
    # The last one added is the outermost.
    app.add_middleware(
        middleware.BodyLimit, body_max_bytes=settings.body_max_bytes, upload_max_bytes=settings.upload_max_bytes
    )
    app.add_middleware(middleware.AllowedHosts, allowed=middleware.allowed_hosts(settings.host, settings.allowed_hosts))
    app.add_middleware(middleware.SecurityHeaders)
    app.add_middleware(middleware.RequestMetrics)
    _complete_openapi(app)
    return app


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _complete_openapi(app: FastAPI) -> None:
    """Name the problem document once among the components, and mark the notice."""
    plain = app.openapi

    def openapi() -> dict[str, object]:
        document = plain()
        schemas = document["components"]["schemas"]
        problem = problems.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs", {}))
        schemas["ProblemDetails"] = problem
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        document["info"]["x-notice"] = RESEARCH_USE_ONLY
        return document

    app.openapi = openapi  # type: ignore[method-assign]
