"""Sessions of the page, kept in memory: a sign-out is final at once, and there is no secret to keep or to rotate.

The price: they end with the process, and several processes behind one address need sticky routing.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field, replace

from services.query import metrics
from services.query.access.users import User


class TooManySessionsError(Exception):
    """As many sessions are open as may be."""


@dataclass(slots=True)
class Sessions:
    """Open sessions, oldest first. All of it belongs to one event loop.

    Attributes:
        lifetime_s: A session ends after this, or with the credential that opened it.
        sessions_max: Most open sessions.
        per_user_max: Most of one user; a further one ends that user's oldest.
    """

    lifetime_s: float
    sessions_max: int
    per_user_max: int
    # By the hash of the cookie's value: what is in memory opens nothing, and looking it up tells nothing by its time.
    _open: dict[bytes, User] = field(default_factory=dict)

    def open(self, user: User) -> tuple[str, User]:
        """A new session of `user`: the cookie's value, 256 random bits, and the user for as long as it lasts.

        Raises:
            TooManySessionsError: there is no room.
        """
        self._sweep()
        own = [name for name, other in self._open.items() if other.display_name == user.display_name]
        for name in own[: max(0, len(own) - self.per_user_max + 1)]:
            del self._open[name]
        if len(self._open) >= self.sessions_max:
            raise TooManySessionsError
        value = secrets.token_urlsafe(32)
        name = _hash(value)
        ends_at = time.time() + self.lifetime_s
        within = replace(
            user,
            ends_at=ends_at if user.ends_at is None else min(ends_at, user.ends_at),
            is_known=lambda: name in self._open and user.is_known(),
        )
        self._open[name] = within
        metrics.SESSIONS.set(len(self._open))
        return value, within

    def user_of(self, value: str) -> User | None:
        """Whose session it is; None if it has ended or never was."""
        user = self._open.get(_hash(value))
        return user if user is not None and user.is_current() else None

    def close(self, value: str) -> None:
        """End a session; safe to repeat."""
        self._open.pop(_hash(value), None)
        metrics.SESSIONS.set(len(self._open))

    def _sweep(self) -> None:
        now = time.time()
        for name in [name for name, user in self._open.items() if user.ends_at is not None and user.ends_at <= now]:
            del self._open[name]


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
