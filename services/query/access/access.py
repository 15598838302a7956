"""Who somebody is: by a key or token in the header, or by the cookie of a session."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection

from services.query import metrics
from services.query.access.api_keys import ApiKeys, looks_like_key
from services.query.access.errors import CredentialRefusedError, CredentialUncheckedError
from services.query.access.fetch import Fetch
from services.query.access.provider import Provider
from services.query.access.same_origin import SAFE_METHODS, is_of_own_page
from services.query.access.sessions import Sessions
from services.query.access.settings import AuthSection, is_loopback
from services.query.access.tokens import Tokens
from services.query.access.users import User
from services.query.problems import Problem
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

CHALLENGE: Final = 'Bearer realm="similis"'
COOKIE: Final = "similis-session"
# The prefix makes browsers insist on https, on this very host and on the whole path (RFC 6265bis 4.1.3).
SECURE_COOKIE: Final = f"__Host-{COOKIE}"


@dataclass(frozen=True, slots=True)
class Access:
    """What the service knows of who may come in."""

    settings: AuthSection
    keys: ApiKeys | None
    tokens: Tokens | None
    sessions: Sessions
    retry_after_s: int

    async def user_of(self, credential: str) -> User:
        """Whose key or token it is.

        Raises:
            Problem: 401, it is not taken; 503, it cannot be checked just now.
        """
        method = "key" if looks_like_key(credential) else "token"
        try:
            user = await self._checked(credential)
        except CredentialRefusedError as error:
            metrics.AUTHENTICATIONS.labels(method, "refused").inc()
            log.info("refused: %s", error)
            raise refused() from error
        except CredentialUncheckedError as error:
            metrics.AUTHENTICATIONS.labels(method, "unchecked").inc()
            raise Problem(
                503,
                "credential-unchecked",
                "The key or token cannot be checked just now.",
                headers={"Retry-After": str(self.retry_after_s)},
            ) from error
        metrics.AUTHENTICATIONS.labels(method, "ok").inc()
        return user

    async def _checked(self, credential: str) -> User:
        if len(credential) > self.settings.token_max_bytes:
            raise CredentialRefusedError("the credential is too long")
        if looks_like_key(credential):
            if self.keys is not None:
                return self.keys.user_of(credential)
        elif self.tokens is not None:
            return await self.tokens.user_of(credential)
        raise CredentialRefusedError("no credential of this kind is taken here")

    async def identify(self, request: HTTPConnection) -> User | None:
        """Who makes the request; None if it shows nothing, or the cookie of a session that has ended.

        Raises:
            Problem: 401, its key or token is not taken; 503, it cannot be checked; 403, another site made the request.
        """
        headers = request.headers.getlist("authorization")
        if headers:
            scheme, _, credential = headers[0].partition(" ")
            if len(headers) > 1 or scheme.lower() != "bearer":
                raise refused()
            return await self.user_of(credential.strip())
        cookie = request.cookies.get(self.cookie_name(request))
        user = None if cookie is None else self.sessions.user_of(cookie)
        if user is not None and request.scope["method"] not in SAFE_METHODS and not is_of_own_page(request):
            raise other_site()
        return user

    def cookie_is_secure(self, request: HTTPConnection) -> bool:
        """Whether the session's cookie goes over https only, where `request` went."""
        if self.settings.cookie_secure is not None:
            return self.settings.cookie_secure
        host = request.headers.get("host", "")
        return not is_loopback(host.partition("]")[0] if host.startswith("[") else host.partition(":")[0])

    def cookie_name(self, request: HTTPConnection) -> str:
        """The cookie's name where `request` went."""
        return SECURE_COOKIE if self.cookie_is_secure(request) else COOKIE


def open_access(settings: AuthSection, *, host: str, retry_after_s: int) -> Access | None:
    """Access as set; None where nobody is asked, with a warning if others can reach `host`.

    Raises:
        ConfigurationError: the file of keys or of authorities cannot be used.
    """
    if not settings.is_on:
        if not is_loopback(host):
            log.warning(
                "anybody who reaches %s may search, see and label: set SIMILIS_QUERY__AUTH__KEYS_FILE or ..__ISSUER",
                host,
            )
        return None
    tokens = None
    if settings.issuer is not None:
        try:
            fetch = Fetch.of(settings)
        except OSError as error:
            raise ConfigurationError(
                f"SIMILIS_QUERY__AUTH__CA_FILE {settings.ca_file} cannot be used: {error}"
            ) from error
        tokens = Tokens(settings, Provider(settings, fetch))
    return Access(
        settings=settings,
        keys=None if settings.keys_file is None else ApiKeys(settings.keys_file),
        tokens=tokens,
        sessions=Sessions(settings.session_lifetime_s, settings.sessions_max, settings.sessions_per_user_max),
        retry_after_s=retry_after_s,
    )


def unknown() -> Problem:
    """Nothing was shown, or only the cookie of a session that has ended."""
    return Problem(
        401,
        "sign-in-needed",
        "Send an API key or a token as `Authorization: Bearer ...`, or sign in.",
        headers={"WWW-Authenticate": CHALLENGE},
    )


def refused() -> Problem:
    """What was shown is not taken. Why is in the log only."""
    return Problem(
        401,
        "credential-refused",
        "The key or token is not known here, not valid, or has expired.",
        headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
    )


def other_site() -> Problem:
    """A browser sent the session's cookie, and does not say that our own page made it do so."""
    return Problem(403, "other-site", "With a session, only the page of this service may change anything.")
