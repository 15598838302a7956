"""Access in the OpenAPI document. It is the same for every service, whether or not it is set up to ask."""

from __future__ import annotations

from typing import Any, Final

from services.query.access.access import COOKIE, SECURE_COOKIE
from services.query.access.route_roles import ROUTE_ROLES

_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a JSON Web Token of the OIDC provider, where the service is set up to ask.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SECURE_COOKIE,
        "description": f"Set by POST /v1/session, for browsers; `{COOKIE}` on loopback. Requests that change "
        "anything must come from the service's own page.",
    },
}


def describe_access(document: dict[str, Any]) -> None:
    """Add to `document` how one signs in, and the least role of each operation, as `x-role`."""
    document["components"]["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            least = ROUTE_ROLES[path][method.upper()]
            if least is not None:
                operation["security"] = [{"bearer": []}, {"session": []}]
                operation["x-role"] = least.value
