"""Lets in who may do what a request asks for. Plain ASGI, before any of the body is read."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.query.access.access import CHALLENGE, Access, unknown
from services.query.access.route_roles import (
    ROUTE_ROLES,
    RouteRoles,
    UnknownMethodError,
    UnknownPathError,
    without_metrics_role,
)
from services.query.access.users import Role
from services.query.problems import Problem, problem_answer

POLICY_VIOLATION: Final = 1008


class AccessControl:
    """Answers 401 and 403; puts who is let in into the scope, as `user`."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access
        self._roles = RouteRoles(without_metrics_role() if access.settings.metrics_open else ROUTE_ROLES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            # There are none; one that is added must not stand open.
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        if scope["type"] == "http":
            request = Request(scope)
            try:
                await self._let_in(request)
            except Problem as problem:
                await problem_answer(request, problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _let_in(self, request: Request) -> None:
        """Set `user` in the scope, of whoever is refused too, unless nobody is asked.

        Raises:
            Problem: 401, 403, 404, 405 or 503.
        """
        try:
            least, no_route = self._roles.of(request.method, request.scope["path"]), None
        except (UnknownPathError, UnknownMethodError) as error:
            least, no_route = Role.READER, _no_route(error)
        if least is None:
            return
        user = await self._access.identify(request)
        if user is None:
            raise unknown()
        request.scope["user"] = user
        if no_route is not None:
            raise no_route
        if least not in user.roles:
            raise role_needed(least)


def role_needed(least: Role) -> Problem:
    """The user is known, but may not do this."""
    return Problem(
        403,
        "role-needed",
        f"This needs the role {least.value}.",
        headers={"WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope"'},
    )


def _no_route(error: UnknownPathError | UnknownMethodError) -> Problem:
    if isinstance(error, UnknownMethodError):
        return Problem(405, "method-not-allowed", "Method Not Allowed", headers={"Allow": ", ".join(error.allowed)})
    return Problem(404, "not-found", "Not Found")
