"""Comparing bytes with the hash and size that were noted when they were received."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from hashlib import sha256 as new_sha256

from shared.errors import ArchiveObjectCorruptError


def check_size(key: str, found: int, expected: int | None) -> None:
    """Raise ArchiveObjectCorruptError unless the object of `key` has `expected` bytes; None: any number."""
    if expected is not None and found != expected:
        raise ArchiveObjectCorruptError(f"{key}: {found} bytes instead of {expected}")


def check_sha256(key: str, found: str, expected: str | None) -> None:
    """Raise ArchiveObjectCorruptError unless the object of `key` has the hash `expected` (hex); None: any."""
    if expected is not None and not hmac.compare_digest(found, expected.lower()):
        raise ArchiveObjectCorruptError(f"{key}: its SHA-256 is {found} instead of {expected}")


def checked(key: str, parts: Iterable[bytes], sha256: str | None, size_bytes: int | None) -> Iterator[bytes]:
    """Pass `parts` on, the last one only when all of them have the hash and size.

    Whoever stores what comes out here stores nothing if they do not: an upload that breaks off is no object.

    Raises:
        ArchiveObjectCorruptError: they do not.
    """
    digest, size, held = new_sha256(), 0, None
    for part in parts:
        if held is not None:
            yield held
        digest.update(part)
        size += len(part)
        held = part
    check_size(key, size, size_bytes)
    check_sha256(key, digest.hexdigest(), sha256)
    if held is not None:
        yield held
