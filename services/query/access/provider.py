"""The OIDC provider: its signing keys by OpenID Connect Discovery 1.0 and RFC 7517, kept for a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from services.query.access.errors import CredentialRefusedError, CredentialUncheckedError
from services.query.access.fetch import FetchError
from services.query.access.settings import AuthSection

log = logging.getLogger(__name__)

SigningKeys = Mapping[tuple[str, str], jwt.PyJWK]  # by kid and algorithm
RSA_MIN_BITS: Final = 2048
# RFC 7518 3.1 and RFC 8037: the kinds of keys that an algorithm is for. A curve goes with one algorithm.
_KINDS: Final[Mapping[str, tuple[str, tuple[str | None, ...]]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", (None,))),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
# Never the private members, should a provider publish them.
_PUBLIC_MEMBERS: Final = ("kty", "crv", "n", "e", "x", "y")


class Provider:
    """The signing keys of `issuer`. All of it belongs to one event loop."""

    def __init__(
        self,
        settings: AuthSection,
        fetch: Callable[[str], Awaitable[dict[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is fetched before a key is asked for."""
        assert settings.issuer is not None
        self._issuer: str = settings.issuer
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._keys: SigningKeys = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str, algorithm: str) -> jwt.PyJWK:
        """The key `kid` for `algorithm`.

        Keys that are good but old are used while newer ones are fetched. A key that is not known is looked for at the
        provider, at most once in `signing_keys_pause_s`.

        Raises:
            CredentialRefusedError: the provider has no such key.
            CredentialUncheckedError: the provider is away, and the key not known or too old.
        """
        found = self._trusted(kid, algorithm)
        if found is None:
            await self._refresh()
            found = self._trusted(kid, algorithm)
        elif self._age() > self._settings.signing_keys_max_age_s:
            self._begin()
        if found is not None:
            return found
        if self._failed:
            raise CredentialUncheckedError("the OIDC provider does not answer")
        raise CredentialRefusedError("the token is signed by a key that the provider does not name")

    def _trusted(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        return self._keys.get((kid, algorithm)) if self._age() <= self._settings.signing_keys_stale_max_s else None

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        task = self._begin()
        if task is not None:
            # Several wait for one fetch; a client that goes away does not end it.
            await asyncio.shield(task)

    def _begin(self) -> asyncio.Task[None] | None:
        """The fetch under way, a new one, or None if the last try was just now."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._tried_at is not None and self._clock() - self._tried_at < self._settings.signing_keys_pause_s:
            return None
        self._tried_at = self._clock()
        self._fetching = asyncio.create_task(self._fetch_keys())
        return self._fetching

    async def _fetch_keys(self) -> None:
        self._failed = True  # until proven otherwise: also if this is cut short
        try:
            entries = await self._entries()
        except FetchError as error:
            log.warning("the OIDC provider's keys cannot be fetched: %s", error)
            return
        self._keys = _usable(entries, self._settings.algorithms)
        self._fetched_at = self._clock()
        self._failed = False
        if not self._keys:
            log.warning("the OIDC provider names no key for any of %s", ", ".join(self._settings.algorithms))

    async def _entries(self) -> list[object]:
        """The provider's key set as it is now. Where it lies is asked each time: it may move."""
        about = await self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if about.get("issuer") != self._issuer:
            raise FetchError(f"the provider calls itself otherwise than {self._issuer}")
        location = about.get("jwks_uri")
        if not isinstance(location, str):
            raise FetchError("the provider names no jwks_uri")
        entries = (await self._fetch(location)).get("keys")
        if not isinstance(entries, list):
            raise FetchError("the provider's key set has no keys")
        return entries


def _usable(entries: Sequence[object], algorithms: Sequence[str]) -> SigningKeys:
    """The keys among `entries` for signatures by `algorithms`; what is not understood is left out (RFC 7517 5)."""
    found: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(kid := entry.get("kid"), str):
            continue
        for algorithm in algorithms:
            key = _key(entry, algorithm) if _is_for(entry, algorithm) else None
            if key is not None:
                found[kid, algorithm] = key
    return found


def _is_for(entry: Mapping[str, Any], algorithm: str) -> bool:
    kty, curves = _KINDS[algorithm]
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("kty") == kty
        and entry.get("crv") in curves
        and entry.get("alg", algorithm) == algorithm
        and entry.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _key(entry: Mapping[str, Any], algorithm: str) -> jwt.PyJWK | None:
    members = {name: entry[name] for name in _PUBLIC_MEMBERS if name in entry}
    try:
        key = jwt.PyJWK(members, algorithm=algorithm)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError) as error:
        log.warning("a key of the OIDC provider cannot be used: %s", type(error).__name__)
        return None
    if members["kty"] == "RSA" and key.key.key_size < RSA_MIN_BITS:
        log.warning("an RSA key of the OIDC provider has fewer than %d bits: not used", RSA_MIN_BITS)
        return None
    return key
