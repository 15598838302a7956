"""The items of an A-ASSOCIATE-RQ: those that a later edition of the Standard may add are skipped."""

from __future__ import annotations

import struct
from typing import Final

# Protocol version, AE titles and reserved bytes: PS3.8 table 9-11.
_FIXED_BYTES: Final = 68
_USER_INFORMATION: Final = 0x50
_ITEMS: Final = frozenset({0x10, 0x20, _USER_INFORMATION})
_USER_ITEMS: Final = frozenset(range(0x51, 0x59))  # PS3.8 section D.1, PS3.7 section D.3.3

_item = struct.Struct(">BxH")


def without_unknown(body: bytes) -> bytes:
    """An A-ASSOCIATE-RQ's body without items of unknown type: PS3.8 section 9.3.1, at which pynetdicom fails.

    Raises:
        ValueError: an item is longer than what holds it.
    """
    return body[:_FIXED_BYTES] + _known(body[_FIXED_BYTES:], _ITEMS)


def _known(items: bytes, kinds: frozenset[int]) -> bytes:
    known = bytearray()
    position = 0
    while position < len(items):
        if len(items) - position < _item.size:
            raise ValueError("an item ends within its header")
        kind, length = _item.unpack_from(items, position)
        start, position = position + _item.size, position + _item.size + length
        if position > len(items):
            raise ValueError("an item is longer than what holds it")
        if kind in kinds:
            value = items[start:position]
            if kind == _USER_INFORMATION:
                value = _known(value, _USER_ITEMS)
            known += _item.pack(kind, len(value)) + value
    return bytes(known)
