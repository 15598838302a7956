"""/v1/session: signing in and out of the page. Research use only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.query.access.access import Access, other_site
from services.query.access.same_origin import is_of_another_page
from services.query.access.sessions import TooManySessionsError
from services.query.access.users import Role, User
from services.query.examples import example
from services.query.problems import Problem, busy, described

router = APIRouter(tags=["session"])

SIGNED_IN: Final[dict[int | str, dict[str, Any]]] = {
    403: described("Another site's page made the request."),
    409: described("The service is not set up to ask who is there."),
}


class SignIn(BaseModel):
    """What opens a session."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra={"examples": [{"credential": "an API key or a token"}]}
    )

    credential: SecretStr = Field(min_length=1, description="An API key, or a token of the OIDC provider.")


class Session(BaseModel):
    """Who is there."""

    model_config = example({"required": True, "principal": "key:reading-room", "roles": ["reader"]})

    required: bool = Field(description="Whether the service asks who is there.")
    principal: str | None = Field(description="Who is signed in; null: nobody.", examples=["key:reading-room"])
    roles: tuple[Role, ...] = Field(description="What the principal may do.")
    ends_at: datetime | None = Field(None, description="When the session or credential ends; null: no such time.")


def _access(request: Request) -> Access | None:
    access: Access | None = request.app.state.access
    return access


Door = Annotated[Access | None, Depends(_access)]


@router.get("/v1/session", summary="Who is signed in")
async def get_session(request: Request, access: Door) -> Session:
    """Answers everybody. `required` is false where nobody is asked."""
    if access is None:
        return Session(required=False, principal=None, roles=())
    return _session(await access.identify(request))


@router.post("/v1/session", summary="Sign in", responses=SIGNED_IN)
async def sign_in(asked: SignIn, request: Request, response: Response, access: Door) -> Session:
    """Opens a session for a key or token and sets its cookie, which no script can read."""
    if access is None:
        raise Problem(409, "no-sign-in", "This service asks nobody who is there.")
    if is_of_another_page(request):
        raise other_site()
    user = await access.user_of(asked.credential.get_secret_value())
    name, secure = access.cookie_name(request), access.cookie_is_secure(request)
    if before := request.cookies.get(name):
        access.sessions.close(before)
    try:
        value, user = access.sessions.open(user)
    except TooManySessionsError as error:
        raise busy(access.retry_after_s) from error
    request.scope["user"] = user
    response.set_cookie(name, value, path="/", secure=secure, httponly=True, samesite="strict")
    return _session(user)


@router.delete("/v1/session", summary="Sign out", status_code=204)
async def sign_out(request: Request, access: Door) -> Response:
    """Ends the session at once, not only in this browser. Without one nothing happens."""
    response = Response(status_code=204)
    if access is None or (user := await access.identify(request)) is None:
        return response
    request.scope["user"] = user
    name = access.cookie_name(request)
    if cookie := request.cookies.get(name):
        access.sessions.close(cookie)
        secure = access.cookie_is_secure(request)
        response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
    return response


def _session(user: User | None) -> Session:
    if user is None:
        return Session(required=True, principal=None, roles=())
    ends_at = None if user.ends_at is None else datetime.fromtimestamp(user.ends_at, UTC)
    return Session(required=True, principal=user.display_name, roles=user.roles, ends_at=ends_at)
