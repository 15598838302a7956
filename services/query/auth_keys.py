"""API keys: 256 random bits each, of which the file holds a salted hash.

A key is `smk_<id>_<secret>`. Its secret is not guessable, so a fast hash is as good as a slow one
and lets every request be checked: HMAC-SHA-256 of the secret under the key's own salt.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from services.query.auth_settings import Role
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

FILE_MAX_BYTES: Final = 10_000_000
_KEY: Final = re.compile(r"smk_(?P<id>[0-9a-f]{16})_(?P<secret>[A-Za-z0-9_-]{43})")
_PREFIX: Final = "smk_"

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ApiKey(BaseModel):
    """One key as the file holds it: nothing that opens a door."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}$")] = Field(
        description="Whose key it is: it stands in labels and in the audit log."
    )
    role: Role
    salt: Hex32
    hash: Hex32
    created_at: AwareDatetime
    expires_at: AwareDatetime | None

    def is_over(self, now: datetime) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and self.expires_at <= now


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have the same id")
        return self


class KeyFileError(Exception):
    """The key file cannot be read as one."""


def is_key(credential: str) -> bool:
    """Whether something looks like an API key, right or wrong."""
    return credential.startswith(_PREFIX)


class ApiKeys:
    """The keys of a file, read anew when it changes. A file that is gone or damaged opens for nobody.

    Raises:
        ConfigurationError: from the constructor, the file is there and cannot be used.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._seen: tuple[int, ...] | None = None
        self._keys: dict[str, ApiKey] = {}
        self._is_broken = False
        try:
            self._keys = {key.id: key for key in read_keys(path)}
        except KeyFileError as error:
            raise ConfigurationError(str(error)) from error
        self._seen = _mark(path)
        if not self._keys:
            log.warning("the key file %s holds no key yet: make one with `similis keys new`", path)

    def check(self, credential: str) -> ApiKey | None:
        """The key that `credential` is; None if it is none, was revoked or has expired.

        Raises:
            KeyFileError: the file is damaged.
        """
        keys = self._current()
        found = _KEY.fullmatch(credential)
        key = keys.get(found["id"]) if found else None
        # As much work for an unknown id as for a known one.
        salt, expected = (key.salt, key.hash) if key else ("0" * 64, "")
        is_right = hmac.compare_digest(_hash(salt, found["secret"] if found else ""), expected)
        return key if key is not None and is_right and not key.is_over(self._now()) else None

    def find(self, key_id: str) -> ApiKey | None:
        """A key that still opens, by its id.

        Raises:
            KeyFileError: the file is damaged.
        """
        key = self._current().get(key_id)
        return None if key is None or key.is_over(self._now()) else key

    def _current(self) -> dict[str, ApiKey]:
        mark = _mark(self._path)
        if mark != self._seen:
            self._seen = mark
            try:
                self._keys = {key.id: key for key in read_keys(self._path)}
                self._is_broken = False
                log.info("%d API keys read", len(self._keys))
            except KeyFileError as error:
                self._keys, self._is_broken = {}, True
                log.error("no API key opens: %s", error)  # noqa: TRY400
        if self._is_broken:
            raise KeyFileError(f"{self._path} cannot be used")
        return self._keys


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file; none if there is no file.

    Raises:
        KeyFileError: it cannot be read, others may write to it, or it is no key file.
    """
    try:
        with path.open("rb") as opened:
            if os.fstat(opened.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise KeyFileError(f"{path} can be written by others than its owner: chmod go-w")
            data = opened.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_MAX_BYTES:
        raise KeyFileError(f"{path} is larger than {FILE_MAX_BYTES:,} bytes")
    try:
        return _Document.model_validate_json(data).keys
    except ValidationError as error:
        places = ", ".join(".".join(map(str, found["loc"])) or "the file" for found in error.errors()[:3])
        raise KeyFileError(f"{path} is no key file: see {places}") from error


def new_key(path: Path, name: str, role: Role, *, expires_at: datetime | None) -> tuple[ApiKey, str]:
    """Add a key to the file; the key as kept, and the secret that nobody can read again.

    Raises:
        KeyFileError: the file cannot be read or written.
        ValidationError: the name is none.
    """
    secret, salt, key_id = secrets.token_urlsafe(32), secrets.token_hex(32), secrets.token_hex(8)
    key = ApiKey(
        id=key_id,
        name=name,
        role=role,
        salt=salt,
        hash=_hash(salt, secret),
        created_at=datetime.now(UTC).replace(microsecond=0),
        expires_at=expires_at,
    )
    with _editing(path) as keys:
        keys.append(key)
    return key, f"{_PREFIX}{key_id}_{secret}"


def revoke_key(path: Path, key_id: str) -> bool:
    """Take a key out of the file; whether it was there.

    Raises:
        KeyFileError: the file cannot be read or written.
    """
    with _editing(path) as keys:
        left = [key for key in keys if key.id != key_id]
        was_there = len(left) != len(keys)
        keys[:] = left
    return was_there


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[list[ApiKey]]:
    """The keys, for one editor at a time; written back as a whole, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list(read_keys(path))
        before = list(keys)
        yield keys
        if keys != before:
            _write(path, _Document(keys=tuple(keys)).model_dump_json(indent=2).encode() + b"\n")
    finally:
        os.close(lock)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        # Who may read the file stays as it was: the service may run as another user of the owner's group.
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error


def _mark(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _hash(salt: str, secret: str) -> str:
    return hmac.new(bytes.fromhex(salt), secret.encode("ascii"), hashlib.sha256).hexdigest()
