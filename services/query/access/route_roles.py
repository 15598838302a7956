"""The least role of every route. What is not named here is not there for anybody: a new route must be added.

A path is matched as Starlette matches the route's template. No two templates here match the same path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.routing import compile_path

from services.query.access.users import Role

_STUDY: Final = "/v1/studies/{study_instance_uid}"

# Least roles by template and method. None: nobody is asked.
ROUTE_ROLES: Final[Mapping[str, Mapping[str, Role | None]]] = {
    # -- the page, which holds nothing of any study, and what watches the service -----------------
    "/": {"GET": None},
    "/static/{path:path}": {"GET": None, "HEAD": None},
    "/openapi.json": {"GET": None, "HEAD": None},
    "/livez": {"GET": None, "HEAD": None},
    "/readyz": {"GET": None, "HEAD": None},
    "/metrics": {"GET": Role.ADMIN, "HEAD": Role.ADMIN},
    # -- signing in: these answer for themselves -------------------------------------------------
    "/v1/session": {"GET": None, "POST": None, "DELETE": None},
    # -- search, browse, see ---------------------------------------------------------------------
    "/v1/info": {"GET": Role.READER},
    "/v1/facets": {"GET": Role.READER},
    "/v1/events": {"GET": Role.READER},
    "/v1/validation": {"GET": Role.READER},
    "/v1/validation/{task}": {"GET": Role.READER},
    "/v1/search": {"POST": Role.READER},
    "/v1/search/batch": {"POST": Role.READER},
    "/v1/search/upload": {"POST": Role.READER},
    "/v1/matches": {"POST": Role.READER},
    "/v1/matches/upload": {"POST": Role.READER},
    "/v1/studies": {"GET": Role.READER},
    _STUDY: {"GET": Role.READER},
    _STUDY + "/instances/{sop_instance_uid}/frames/{frame_number}.png": {"GET": Role.READER},
    _STUDY + "/explanations/{task}/{name}.png": {"GET": Role.READER},
    _STUDY + "/explanations/{task}/{name}.json": {"GET": Role.READER},
    _STUDY + "/explanation-requests/{request_id}": {"GET": Role.READER},
    _STUDY + "/labels": {"GET": Role.READER},
    "/v1/labels/{task}": {"GET": Role.READER},
    # -- label, ask for maps ---------------------------------------------------------------------
    _STUDY + "/labels/{task}": {"PUT": Role.OPERATOR, "DELETE": Role.OPERATOR},
    "/v1/explanations": {"POST": Role.OPERATOR},
}


class UnknownPathError(Exception):
    """No route has this path."""


@dataclass(frozen=True, slots=True)
class UnknownMethodError(Exception):
    """A route has this path, but not for this method."""

    allowed: tuple[str, ...]


class RouteRoles:
    """Finds the least role for a request."""

    def __init__(self, roles: Mapping[str, Mapping[str, Role | None]] = ROUTE_ROLES) -> None:
        self._rules = [(compile_path(template)[0], methods) for template, methods in roles.items()]

    def of(self, method: str, path: str) -> Role | None:
        """The least role for `method` on `path`; None: nobody is asked.

        Raises:
            UnknownPathError: no route has this path.
            UnknownMethodError: none has it for this method.
        """
        for pattern, methods in self._rules:
            if pattern.match(path):
                if method not in methods:
                    raise UnknownMethodError(tuple(methods))
                return methods[method]
        raise UnknownPathError


def without_metrics_role() -> Mapping[str, Mapping[str, Role | None]]:
    """The roles where anybody may read the metrics."""
    return {**ROUTE_ROLES, "/metrics": dict.fromkeys(ROUTE_ROLES["/metrics"])}
