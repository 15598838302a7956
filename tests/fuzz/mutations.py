"""Ways to spoil a valid stream of PDUs or a valid data set, each drawn from a seeded generator."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Final

from tests.fuzz.streams import P_DATA

_STRANGE_LENGTHS: Final = (0, 1, 2, 3, 5, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_LONGEST: Final = 0xFFFFFFFF


def bit_flips(data: bytes, rng: random.Random, most: int = 8) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, most) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bytes_set(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    return bytes(changed)


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def spliced(data: bytes, rng: random.Random) -> bytes:
    """A piece of it, or noise, goes in somewhere, or takes the place of what stood there."""
    length = rng.choice((1, 2, 4, 8, 40, 300))
    start, target = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    piece = data[start : start + length] if rng.random() < 0.6 else rng.randbytes(length)
    return data[:target] + piece + data[target + (length if rng.random() < 0.5 else 0) :]


def removed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 4, 6, 8, 100)) :]


def _some(pdus: list[bytes], rng: random.Random) -> int:
    return rng.randrange(len(pdus))


def duplicated_pdu(pdus: list[bytes], rng: random.Random) -> list[bytes]:
    at = _some(pdus, rng)
    return [*pdus[: at + 1], pdus[at], *pdus[at + 1 :]]


def dropped_pdu(pdus: list[bytes], rng: random.Random) -> list[bytes]:
    at = _some(pdus, rng)
    return pdus[:at] + pdus[at + 1 :]


def swapped_pdus(pdus: list[bytes], rng: random.Random) -> list[bytes]:
    one, other = _some(pdus, rng), _some(pdus, rng)
    changed = list(pdus)
    changed[one], changed[other] = changed[other], changed[one]
    return changed


def pdu_length(pdus: list[bytes], rng: random.Random) -> list[bytes]:
    """A PDU's length is a little wrong, or absurd."""
    at = _some(pdus, rng)
    pdu = bytearray(pdus[at])
    if len(pdu) >= 6:
        right = struct.unpack_from(">I", pdu, 2)[0]
        wrong = rng.choice((*_STRANGE_LENGTHS, right + 1, max(0, right - 1), right + 6, max(0, right - 6)))
        struct.pack_into(">I", pdu, 2, min(wrong, _LONGEST))
    return [*pdus[:at], bytes(pdu), *pdus[at + 1 :]]


def pdu_type(pdus: list[bytes], rng: random.Random) -> list[bytes]:
    at = _some(pdus, rng)
    return [*pdus[:at], bytes((rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 255)),)) + pdus[at][1:], *pdus[at + 1 :]]


def fragment_field(pdus: list[bytes], rng: random.Random) -> list[bytes]:
    """The first presentation data value of a P-DATA PDU has another length, context id or control header."""
    places = [at for at, pdu in enumerate(pdus) if len(pdu) >= 12 and pdu[0] == P_DATA]
    if not places:
        return pdus
    at = rng.choice(places)
    pdu = bytearray(pdus[at])
    kind = rng.randrange(3)
    if kind == 0:
        right = struct.unpack_from(">I", pdu, 6)[0]
        wrong = rng.choice((*_STRANGE_LENGTHS, right + 1, max(0, right - 1), right + 2))
        struct.pack_into(">I", pdu, 6, min(wrong, _LONGEST))
    elif kind == 1:
        pdu[10] = rng.choice((0, 1, 2, 3, 5, 11, 15, 17, 254, 255))
    else:
        pdu[11] = rng.choice((0, 1, 2, 3, 4, 0xFC, 0xFF))
    return [*pdus[:at], bytes(pdu), *pdus[at + 1 :]]


ON_BYTES: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    bit_flips,
    bytes_set,
    truncated,
    spliced,
    removed,
)
ON_PDUS: Final[tuple[Callable[[list[bytes], random.Random], list[bytes]], ...]] = (
    duplicated_pdu,
    dropped_pdu,
    swapped_pdus,
    pdu_length,
    pdu_type,
    fragment_field,
    fragment_field,
)


def spoil_stream(pdus: list[bytes], rng: random.Random) -> bytes:
    """One to three mutations, of whole PDUs first."""
    count = rng.choice((1, 1, 1, 2, 3))
    data = None
    for _ in range(count):
        if data is None and pdus and rng.random() < 0.5:
            pdus = rng.choice(ON_PDUS)(pdus, rng)
        else:
            data = rng.choice(ON_BYTES)(b"".join(pdus) if data is None else data, rng)
    return b"".join(pdus) if data is None else data


def element_length(data: bytes, value_offset: int, rng: random.Random, *, little: bool) -> bytes:
    """The element whose value begins there has another length, of two or four bytes."""
    order = "<" if little else ">"
    changed = bytearray(data)
    if rng.random() < 0.5:
        struct.pack_into(order + "H", changed, value_offset - 2, rng.choice(_STRANGE_LENGTHS) & 0xFFFF)
    else:
        struct.pack_into(order + "I", changed, value_offset - 4, rng.choice(_STRANGE_LENGTHS))
    return bytes(changed)


def nested(data: bytes, rng: random.Random, *, explicit: bool, little: bool) -> bytes:
    """Behind the last element: a sequence of sequences, of undefined or absurd lengths, closed or not."""
    order = "<" if little else ">"
    depth = rng.choice((1, 3, 20, 64, 200, 3000))
    length = rng.choice((0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE, 8))
    opening = struct.pack(order + "HH", 0xFFFC, 0x0001)
    opening += struct.pack(order + "2sHI", b"SQ", 0, length) if explicit else struct.pack(order + "I", length)
    opening += struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack(order + "HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return data + opening * depth + closing * rng.choice((depth, depth, depth - 1, 0))
