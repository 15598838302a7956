"""Who asks."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from fastapi import Depends, Request

from shared.labels.record import WHO_MAX

_DIGEST_DIGITS: Final = 32


def principal_of(request: Request) -> str | None:
    """The principal that an authentication middleware put into the request's scope (`user`, as Starlette's does).

    None while the service asks for no credentials. What a client says of itself in a body or header is never taken.
    """
    user = request.scope.get("user")
    if user is None or not user.is_authenticated:
        return None
    name = "".join(letter for letter in str(user.display_name) if letter.isprintable())
    if len(name) > WHO_MAX:
        # Two subjects of a provider may begin alike; they are never taken for one.
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
        name = f"{name[: WHO_MAX - _DIGEST_DIGITS - 1]}~{digest}"
    return name or None


Principal = Annotated[str | None, Depends(principal_of)]
