"""Roles, and who asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """What somebody may do; each role covers those before it."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covered(self) -> tuple[Role, ...]:
        """This role and those that it covers, least first."""
        every = tuple(Role)
        return every[: every.index(self) + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks: `scope["user"]`, with the attributes that Starlette's users have.

    Attributes:
        display_name: The principal, the same at every visit: `key:NAME` or `oidc:SUBJECT`.
        role: The highest role; None for somebody whom the provider knows, but who has no role here.
        method: What was shown at the door, or at the sign-in for a session.
        ends_at: Seconds since the epoch from when on the credential is worth nothing; None: no such time.
        is_known: Whether the credential is still good apart from its time: a key not revoked, a session not left.
    """

    display_name: str
    role: Role | None
    method: Literal["key", "token"]
    ends_at: float | None
    is_known: Callable[[], bool]
    is_authenticated: bool = True

    @property
    def roles(self) -> tuple[Role, ...]:
        """All roles that the user has, least first."""
        return () if self.role is None else self.role.covered()

    def is_current(self) -> bool:
        """Whether the credential would still be taken, for answers that take long."""
        return (self.ends_at is None or time.time() < self.ends_at) and self.is_known()
