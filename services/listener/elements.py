"""Walks the bytes of a data set from its first to its last element, without decoding values.

A header-only reader cannot tell a whole object from a truncated one. This walk can: it steps over
every value, fragment and item, and so notices each length that promises more than is there. It
does not judge what a value says, so an object that another reader could use is not turned away.
Sources: PS3.5 sections 7.1 (elements), 7.5 (sequences), A.4 (encapsulated pixel data).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Final

from services.listener.answers import Outcome, RefusedObjectError

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_PAPYRUS_3_IMPLICIT: Final = "1.2.840.10008.1.20"
# Deflated Explicit VR LE; JPIP Referenced Deflate; JPIP HTJ2K Referenced Deflate.
_DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_PIXEL_DATA: Final = 0x7FE00010
_MAX_DEPTH: Final = 64
_MAX_VALUE_BYTES: Final = 1024


class _Walk:
    """One pass over a data set. `found` receives the top level's wanted values as raw bytes."""

    def __init__(self, data: bytes | memoryview, wanted: Collection[int], *, little: bool) -> None:
        self._data = data
        self._wanted = wanted
        self._tag = struct.Struct("<HH" if little else ">HH").unpack_from
        self._u16 = struct.Struct("<H" if little else ">H").unpack_from
        self._u32 = struct.Struct("<I" if little else ">I").unpack_from
        self.found: dict[int, bytes] = {}

    def elements(self, position: int, end: int, *, implicit: bool, depth: int, in_item: bool = False) -> int:
        """Walk elements up to `end`, or past the delimiter of an item of undefined length."""
        data = self._data
        while position < end:
            if end - position < 8:
                if depth == 0 and not any(data[position:end]):
                    return end  # padding after the last element
                raise _truncated(position)
            group, element = self._tag(data, position)
            tag = group << 16 | element
            if group == 0xFFFE:
                if in_item and tag == _ITEM_END:
                    return position + 8
                raise RefusedObjectError(Outcome.MALFORMED, "An item delimiter stands outside of a sequence")
            vr = b"" if implicit else bytes(data[position + 4 : position + 6])
            if vr in _LONG_VRS:
                if end - position < 12:
                    raise _truncated(position)
                (length,) = self._u32(data, position + 8)
                start = position + 12
            elif vr.isalpha() and vr.isupper():
                (length,) = self._u16(data, position + 6)
                start = position + 8
            else:  # implicit VR, or an element that a sender left implicit in an explicit data set
                (length,) = self._u32(data, position + 4)
                start = position + 8
            if length == _UNDEFINED:
                position = self._undefined(tag, vr, start, end, implicit=implicit, depth=depth)
            else:
                position = start + length
                if position > end:
                    raise _truncated(start)
            if depth == 0 and tag in self._wanted:
                self.found[tag] = bytes(data[start : min(position, start + _MAX_VALUE_BYTES)])
        if in_item:
            raise _truncated(position)
        return position

    def _undefined(self, tag: int, vr: bytes, start: int, end: int, *, implicit: bool, depth: int) -> int:
        if tag == _PIXEL_DATA or vr in (b"OB", b"OW"):
            return self._items(start, end, implicit=implicit, depth=depth, fragments=True)
        if vr == b"UN":
            # PS3.5 section 6.2.2, note 4: the content is Implicit VR Little Endian.
            nested = _Walk(self._data, (), little=True)
            return nested._items(start, end, implicit=True, depth=depth, fragments=False)
        return self._items(start, end, implicit=implicit, depth=depth, fragments=False)

    def _items(self, position: int, end: int, *, implicit: bool, depth: int, fragments: bool) -> int:
        if depth >= _MAX_DEPTH:
            raise RefusedObjectError(Outcome.MALFORMED, "Sequences are nested too deeply")
        while True:
            if end - position < 8:
                raise _truncated(position)
            group, element = self._tag(self._data, position)
            (length,) = self._u32(self._data, position + 4)
            position += 8
            tag = group << 16 | element
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM or (fragments and length == _UNDEFINED):
                raise RefusedObjectError(Outcome.MALFORMED, "A sequence holds something that is no item")
            if length == _UNDEFINED:
                position = self.elements(position, end, implicit=implicit, depth=depth + 1, in_item=True)
            else:
                position += length
                if position > end:
                    raise _truncated(position - length)


def walk(
    data: bytes | memoryview, transfer_syntax_uid: str, wanted: Collection[int], *, max_bytes: int
) -> Mapping[int, bytes]:
    """The raw values (at most 1024 bytes each) of those elements in `wanted` that the top level has.

    Raises:
        RefusedObjectError: the data set is truncated, is no data set in this transfer syntax, or
            inflates to more than `max_bytes`.
    """
    if transfer_syntax_uid in _DEFLATED:
        data = _inflate(data, max_bytes)
    little = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    implicit = transfer_syntax_uid in (IMPLICIT_VR_LITTLE_ENDIAN, _PAPYRUS_3_IMPLICIT)
    search = _Walk(data, wanted, little=little)
    search.elements(0, len(data), implicit=implicit, depth=0)
    return search.found


def _inflate(data: bytes | memoryview, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise RefusedObjectError(Outcome.MALFORMED, "The deflated data set is corrupt") from error
    if len(inflated) > max_bytes:
        raise RefusedObjectError(Outcome.TOO_LARGE, f"The inflated data set is longer than {max_bytes} bytes")
    if not inflater.eof:
        raise _truncated(len(data))
    return inflated


def _truncated(position: int) -> RefusedObjectError:
    return RefusedObjectError(Outcome.MALFORMED, f"The data set is truncated: a value after byte {position}")
