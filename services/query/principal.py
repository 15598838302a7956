"""Who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from shared.labels.record import WHO_MAX


def principal_of(request: Request) -> str | None:
    """The principal that an authentication middleware put into the request's scope (`user`, as Starlette's does).

    None while the service asks for no credentials. What a client says of itself in a body or header is never taken.
    """
    user = request.scope.get("user")
    if user is None or not user.is_authenticated:
        return None
    name = "".join(letter for letter in str(user.display_name) if letter.isprintable())
    return name[:WHO_MAX] or None


Principal = Annotated[str | None, Depends(principal_of)]
