"""API keys: 256 random bits each, shown once; the file has their hashes.

A key cannot be guessed, whatever the hash costs: 2^256 tries are out of reach, so SHA-256 without salt or
stretching is enough, and cheap for each request. Passwords would need a slow hash; keys are no passwords.
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
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from services.query.access.errors import CredentialRefusedError, CredentialUncheckedError
from services.query.access.users import Role, User
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
_KEY: Final = re.compile(r"similis_(?P<key_id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class KeyRecord(BaseModel):
    """What is kept of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    role: Role
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    def is_over(self) -> bool:
        """Whether its time has passed."""
        return self.expires_at is not None and self.expires_at.timestamp() <= time.time()


class KeyFile(BaseModel):
    """The file of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({record.key_id for record in self.keys}) != len(self.keys):
            raise ValueError("two keys have the same id")
        return self


def looks_like_key(credential: str) -> bool:
    """Whether a credential has the form of a key; all others are tried as tokens."""
    return credential.startswith("similis_")


def new_key(name: str, role: Role, *, created_at: datetime, expires_at: datetime | None) -> tuple[str, KeyRecord]:
    """A new key, to be shown once, and what is kept of it."""
    key_id = secrets.token_hex(6)
    key = f"similis_{key_id}_{secrets.token_urlsafe(32)}"
    record = KeyRecord(
        key_id=key_id, name=name, role=role, created_at=created_at, expires_at=expires_at, sha256=_hash(key)
    )
    return key, record


class ApiKeys:
    """The keys of a file, which is read again when it changes: a revoked key is refused at the next request."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigurationError: it is missing, writable by others, or no file of keys.
        """
        self._path = path
        self._state = _state_of(path)
        self._records = _by_id(read_keys(path))

    def user_of(self, key: str) -> User:
        """Who has `key`.

        Raises:
            CredentialRefusedError: no such key, or its time has passed.
            CredentialUncheckedError: the file cannot be read.
        """
        found = _KEY.fullmatch(key)
        record = self._current().get(found["key_id"]) if found else None
        if record is None or not hmac.compare_digest(record.sha256, _hash(key)):
            raise CredentialRefusedError("unknown API key")
        if record.is_over():
            raise CredentialRefusedError(f"API key {record.key_id} has expired")
        return User(
            display_name=f"key:{record.name}",
            role=record.role,
            method="key",
            ends_at=None if record.expires_at is None else record.expires_at.timestamp(),
            is_known=lambda: self._holds(record),
        )

    def _holds(self, record: KeyRecord) -> bool:
        try:
            return self._current().get(record.key_id) == record
        except CredentialUncheckedError:
            return False

    def _current(self) -> dict[str, KeyRecord]:
        # One stat of a local file, a few microseconds: no need to leave the event loop.
        try:
            state = _state_of(self._path)
            if state != self._state:
                self._records = _by_id(read_keys(self._path))
                self._state = state
                log.info("API keys read anew: %d", len(self._records))
        except ConfigurationError as error:
            log.error("no API key can be checked: %s", error)  # noqa: TRY400 - the message says it all
            raise CredentialUncheckedError(str(error)) from error
        return self._records


def read_keys(path: Path) -> KeyFile:
    """The keys in the file at `path`.

    Raises:
        ConfigurationError: it is missing, writable by others, or no file of keys.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the file of API keys {path} cannot be read: {error.strerror}. `similis keys add` makes one"
        ) from error
    if mode & _WRITABLE_BY_OTHERS:
        raise ConfigurationError(f"the file of API keys {path} can be written by others than its owner: chmod 600")
    try:
        return KeyFile.model_validate_json(text)
    except ValidationError as error:
        raise ConfigurationError(f"{path} is no file of API keys: {error.error_count()} faults") from error


@contextlib.contextmanager
def changing(path: Path) -> Iterator[list[KeyRecord]]:
    """The records at `path`, to be changed in place; what they are at the end is written, for the owner alone.

    One process at a time; readers see the old file or the new one. Makes the file if it is missing.

    Raises:
        ConfigurationError: the file cannot be read or written, or is no file of keys.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(f"the folder of {path} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        records = list(read_keys(path).keys) if path.exists() else []
        yield records
        _write(path, KeyFile(keys=tuple(records)))
        os.fsync(folder)
    except OSError as error:
        raise ConfigurationError(f"the file of API keys {path} cannot be written: {error.strerror}") from error
    finally:
        os.close(folder)


def _write(path: Path, file: KeyFile) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(file.model_dump_json(indent=2) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _by_id(file: KeyFile) -> dict[str, KeyRecord]:
    return {record.key_id: record for record in file.keys}


def _state_of(path: Path) -> tuple[int, int, int, int] | None:
    """What differs whenever the file does; None if it cannot be looked at, which reading then tells."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
