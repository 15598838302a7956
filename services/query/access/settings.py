"""Settings of who may do what: SIMILIS_QUERY__AUTH__*."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from shared.settings import Section

# Asymmetric ones only: with a shared secret, whoever can check a token can make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class AuthSection(Section):
    """API keys, tokens of an OIDC provider, and sessions of the page. With neither keys nor issuer nobody is asked."""

    required: bool = Field(False, description="Refuse to start unless `keys_file` or `issuer` is set.")
    keys_file: Path | None = Field(None, description="File of hashed API keys, kept by `similis keys`.")
    issuer: str | None = Field(
        None, description="URL of the OIDC provider, exactly as its tokens name it in `iss`; https but for loopback."
    )
    audience: str | None = Field(
        None, description="With `issuer`: the name that tokens for this service have in `aud`."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "PS256", "ES256", "EdDSA"),
        min_length=1,
        description="Signatures of tokens that are taken (JSON list).",
    )
    roles_claim: str = Field(
        "roles",
        min_length=1,
        description="Claim with the user's roles; dots go into objects: realm_access.roles. The highest role counts.",
    )
    reader_role: str = Field(
        "similis-reader", min_length=1, description="What the provider calls who may search, browse and see."
    )
    operator_role: str = Field(
        "similis-operator", min_length=1, description="What it calls who may also label and ask for maps."
    )
    admin_role: str = Field("similis-admin", min_length=1, description="What it calls who may do everything.")
    leeway_s: NonNegativeFloat = Field(30.0, le=300, description="How far the provider's clock may be off.")
    ca_file: Path | None = Field(
        None, description="PEM file of authorities to trust for the provider, beside the system's."
    )
    provider_timeout_s: PositiveFloat = Field(5.0, description="Longest a request to the provider may take in all.")
    provider_max_bytes: PositiveInt = Field(262_144, description="Largest document that is taken from the provider.")
    signing_keys_max_age_s: PositiveFloat = Field(
        3600.0, description="The provider's signing keys are fetched anew when they are older than this."
    )
    signing_keys_stale_max_s: PositiveFloat = Field(
        86_400.0, description="While the provider is away, its signing keys are trusted up to this age."
    )
    signing_keys_pause_s: PositiveFloat = Field(
        10.0, description="Least pause between two fetches, however many tokens name unknown keys."
    )
    token_max_bytes: PositiveInt = Field(16_384, description="Longest credential that is looked at.")
    session_lifetime_s: PositiveFloat = Field(
        28_800.0, description="A session of the page ends after this, and when the key or token that opened it ends."
    )
    sessions_max: PositiveInt = Field(10_000, description="Most open sessions; further sign-ins are answered with 503.")
    sessions_per_user_max: PositiveInt = Field(
        20, description="Most open sessions of one user; a further one ends that user's oldest."
    )
    cookie_secure: bool | None = Field(
        None,
        description="Whether browsers may send the session's cookie over https only. Unset: yes, unless the request "
        "names a loopback host. Set it to true behind a proxy that changes Host.",
    )
    metrics_open: bool = Field(True, description="Give /metrics to anybody; false: to the role admin.")

    @property
    def is_on(self) -> bool:
        """Whether anybody is asked."""
        return self.keys_file is not None or self.issuer is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.required and not self.is_on:
            raise ValueError("required is set: set keys_file or issuer too")
        if (self.issuer is None) != (self.audience is None):
            raise ValueError("issuer and audience go together")
        if self.issuer is not None and ("?" in self.issuer or not is_trustworthy(self.issuer)):
            raise ValueError("issuer must be an https:// URL (http:// on loopback only) without query or user")
        if self.signing_keys_stale_max_s < self.signing_keys_max_age_s:
            raise ValueError("signing_keys_stale_max_s must not be less than signing_keys_max_age_s")
        return self


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without a port, is this machine itself."""
    try:
        return host.lower() == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_trustworthy(url: str) -> bool:
    """Whether what is fetched from `url` is what its host sent: https, or http that never leaves this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.fragment or parts.username is not None or not (url.isascii() and url.isprintable()):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
