"""Cursors: where a page ended, opaque to the client, and refused where they are not of its query."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.query.problems import Problem

_VERSION: Final = b"s1"
_HEAD: Final = struct.Struct(">2s8sd")
_MARK_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class SearchCursor:
    """Where the pages of one search ended.

    Attributes:
        fingerprint: Of the search, 8 bytes: a cursor of another search is refused.
        score: Of the last neighbour given; the next pages hold none above it, so that the order holds while data
            arrives.
        seen: A mark of every neighbour given so far, 8 bytes each: none is given twice.
    """

    fingerprint: bytes
    score: float
    seen: tuple[bytes, ...]


def invalid_cursor() -> Problem:
    """The answer to a cursor that this service did not give out for this query."""
    return Problem(422, "invalid-cursor", "The cursor is not one that this service gave out for this query.")


def encode(data: bytes) -> str:
    """Bytes as text that may stand in a URL."""
    return base64.urlsafe_b64encode(data).decode("ascii")


def decode(cursor: str) -> bytes:
    """Back from `encode`.

    Raises:
        Problem: 422, it is no such text.
    """
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise invalid_cursor() from error


def mark(name: str) -> bytes:
    """A short stand-in for a neighbour's name, 8 bytes."""
    return hashlib.sha256(name.encode()).digest()[:_MARK_BYTES]


def fingerprint(*parts: str | bytes) -> bytes:
    """What a search is told by, 8 bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()[:_MARK_BYTES]


def encode_search(cursor: SearchCursor) -> str:
    """The cursor of a search as text: 18 bytes and 8 for each neighbour given, in base64."""
    return encode(_HEAD.pack(_VERSION, cursor.fingerprint, cursor.score) + b"".join(cursor.seen))


def decode_search(text: str, *, expected: bytes, seen_max: int) -> SearchCursor:
    """The cursor of the search whose fingerprint is `expected`.

    Raises:
        Problem: 422, it is of another search, or was not given out here.
    """
    data = decode(text)
    marks = data[_HEAD.size :]
    if len(data) < _HEAD.size or len(marks) % _MARK_BYTES or not 0 < len(marks) <= seen_max * _MARK_BYTES:
        raise invalid_cursor()
    version, found, score = _HEAD.unpack(data[: _HEAD.size])
    if version != _VERSION or found != expected or not math.isfinite(score):
        raise invalid_cursor()
    return SearchCursor(found, score, _split(marks))


def _split(marks: bytes) -> tuple[bytes, ...]:
    places: Sequence[int] = range(0, len(marks), _MARK_BYTES)
    return tuple(marks[place : place + _MARK_BYTES] for place in places)
