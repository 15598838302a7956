"""Settings of who may ask the query service, how often, and what is noted of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from shared.addresses import is_loopback
from shared.audit import AuditFileSection
from shared.settings import Section

# What a shared secret signs is never taken: the public key would be that secret.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class Role(StrEnum):
    """What somebody may do; each role may do what those before it may."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def implied(self) -> tuple[Role, ...]:
        """This role and those below it, the least first."""
        order = tuple(Role)
        return order[: order.index(self) + 1]


class OidcSection(Section):
    """An OpenID Connect provider whose tokens are taken."""

    issuer: str | None = Field(
        None, description="URL of the OpenID Connect provider; https, but for loopback. Unset: no tokens are taken."
    )
    audience: str | None = Field(None, description="What `aud` of a token must hold; required with an issuer.")
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "PS256", "ES256"), min_length=1, description="Signature algorithms that are taken (JSON list)."
    )
    roles_claim: tuple[str, ...] = Field(
        ("roles",),
        min_length=1,
        description='Path to the claim with the roles (JSON list), such as ["realm_access", "roles"].',
    )
    roles: Mapping[str, Role] = Field(
        {"similis-reader": Role.READER, "similis-operator": Role.OPERATOR, "similis-admin": Role.ADMIN},
        description="Which of the provider's roles is which of ours (JSON object); others count for nothing.",
    )
    principal_claim: str = Field("sub", min_length=1, description="The claim that names who asks, in labels and audit.")
    leeway_s: NonNegativeFloat = Field(30.0, le=300, description="Tolerance for clocks in `exp`, `nbf` and `iat`.")
    ca_file: Path | None = Field(None, description="PEM file of authorities to trust for the provider; unset: certifi's.")
    timeout_s: PositiveFloat = Field(5.0, description="Longest wait for the provider to connect, and for each answer.")
    keys_max_age_s: PositiveFloat = Field(3600.0, description="The provider's keys are read anew when they are older.")
    keys_stale_max_s: PositiveFloat = Field(
        86_400.0, description="While the provider does not answer, its keys are used until they are this old."
    )
    keys_retry_s: PositiveFloat = Field(
        30.0, description="Pause between two readings of the keys, whatever unknown key ids tokens name."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.issuer is None:
            return self
        if self.audience is None:
            raise ValueError("an issuer needs an audience: without one, tokens for any other service would be taken")
        check_url(self.issuer)
        return self


class AuthSection(Section):
    """Who may ask. Without keys or a provider nobody is asked who they are."""

    keys_file: Path | None = Field(
        None, description="File of hashed API keys, kept by `similis keys`; read anew when it changes. Unset: no keys."
    )
    oidc: OidcSection = OidcSection()
    anonymous: Literal["none", "reader", "operator", "admin"] | None = Field(
        None,
        description="Role of who shows no credentials. Unset: none once keys or a provider are set; before that, admin "
        "where the bound address is a loopback address, else reader.",
    )
    session_max_s: PositiveFloat = Field(
        28_800.0, description="A browser's session ends after this, and when its key or token does."
    )
    session_idle_s: PositiveFloat = Field(3600.0, description="A browser's session ends when unused for this long.")
    sessions_max: PositiveInt = Field(10_000, description="Open sessions; then a new sign-in is answered with 503.")
    sessions_each_max: PositiveInt = Field(20, description="Open sessions of one principal; the oldest one ends.")

    @property
    def is_set(self) -> bool:
        """Whether anybody can show credentials."""
        return self.keys_file is not None or self.oidc.issuer is not None


class RateSection(Section):
    """How often one principal, or one address without credentials, may ask: so much a second, and so much at once."""

    requests_per_s: PositiveFloat = Field(100.0, description="Requests of one principal, on average.")
    requests_burst: PositiveInt = Field(1000, description="Requests of one principal at once.")
    uploads_per_s: PositiveFloat = Field(2.0, description="Of these, uploads, on average.")
    uploads_burst: PositiveInt = Field(20, description="Of these, uploads at once.")
    explanations_per_s: PositiveFloat = Field(0.5, description="Of these, requests for saliency maps, on average.")
    explanations_burst: PositiveInt = Field(30, description="Of these, requests for saliency maps at once.")
    failures_per_s: PositiveFloat = Field(1.0, description="Refused credentials of one address, on average.")
    failures_burst: PositiveInt = Field(20, description="Refused credentials of one address at once.")
    loopback: bool = Field(False, description="Also limit who asks from this machine without credentials.")
    tracked_max: PositiveInt = Field(10_000, description="Principals and addresses that are told apart at a time.")


class QueryAuditSection(AuditFileSection):
    """The query service's audit log (PS3.15 A.5)."""

    fail_closed: bool = Field(True, description="Give no study away while the audit log cannot be written (503).")
    patience_s: PositiveFloat = Field(5.0, description="With fail_closed: longest wait for a record to be written.")
    repeat_s: NonNegativeFloat = Field(
        60.0, description="The same access by the same principal within this time is recorded once, then as a number."
    )
    rotate_bytes: NonNegativeInt = Field(
        100_000_000, description="A file of this size gets a name of its own, and a new one begins; 0: never."
    )


def check_url(url: str) -> None:
    """See that a URL of the provider is one that may be asked.

    Raises:
        ValueError: it is neither https nor on this machine, or holds more than a place.
    """
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or parts.username is not None or parts.fragment or parts.query:
        raise ValueError("the provider's URL is a plain URL with a host")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("the provider is asked over https only, but for loopback")
