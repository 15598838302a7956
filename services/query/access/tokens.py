"""JSON Web Tokens of the provider: RFC 7519, checked as RFC 8725 asks for; the `typ` of RFC 9068 is not asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import jwt

from services.query.access.errors import CredentialRefusedError
from services.query.access.provider import Provider
from services.query.access.settings import AuthSection
from services.query.access.users import Role, User

log = logging.getLogger(__name__)

SUBJECT_MAX: Final = 255  # OpenID Connect Core 2
LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
# A signed token may still hold what no check expects, such as an infinite `exp` or a thousand brackets.
_UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class Tokens:
    """Reads tokens that `provider` signed for this service."""

    def __init__(self, settings: AuthSection, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._roles = {
            settings.reader_role: Role.READER,
            settings.operator_role: Role.OPERATOR,
            settings.admin_role: Role.ADMIN,
        }

    async def user_of(self, token: str) -> User:
        """Whom `token` names.

        Raises:
            CredentialRefusedError: it is no token, not from the issuer, not for this service, or over.
            CredentialUncheckedError: the provider is away and its key not known.
        """
        try:
            header = jwt.get_unverified_header(token)
        except _UNREADABLE as error:
            raise CredentialRefusedError(f"no token: {type(error).__name__}") from error
        algorithm, kid = header.get("alg"), header.get("kid")
        # Before anything is fetched: a token that could never be taken costs nothing.
        if algorithm not in self._settings.algorithms or not isinstance(kid, str):
            raise CredentialRefusedError("the token is not signed by one of the algorithms, or names no key")
        key = await self._provider.key(kid, algorithm)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway_s,
                options={"require": list(_REQUIRED)},
            )
            ends_at = min(float(claims["exp"]) + self._settings.leeway_s, LATEST)
        except _UNREADABLE as error:
            raise CredentialRefusedError(f"the token is not taken: {type(error).__name__}") from error
        return User(
            display_name=f"oidc:{_subject(claims)}",
            role=self._role(claims),
            method="token",
            ends_at=ends_at,
            is_known=lambda: True,
        )

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        named = _claim(claims, self._settings.roles_claim)
        names = named.split() if isinstance(named, str) else named if isinstance(named, list) else []
        had = {self._roles[name] for name in names if isinstance(name, str) and name in self._roles}
        return max(had, key=list(Role).index, default=None)


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX or not subject.isprintable():
        raise CredentialRefusedError("the token's subject is no short text")
    return subject


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim of this very name, or else the one that the name's dots lead to."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
