"""Walks a data set from its first to its last element, without decoding values.

A header-only reader cannot tell a whole object from a truncated one. This walk can: it steps over
every value, fragment and item, and so notices each length that promises more than is there. It
does not judge what a value says, so an object that another reader could use is not turned away.
It looks at the data set through a small window that only moves forward, so that an object of any
size costs the same memory. Sources: PS3.5 sections 7.1 (elements), 7.5 (sequences), A.4
(encapsulated pixel data).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Mapping
from typing import Final, Protocol

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
_PIXEL_GROUP: Final = 0x7FE0
_MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 4_000_000
"""Elements and items of one data set, nested ones too: what a walk takes of the processor is bounded by it."""
_MAX_VALUE_BYTES: Final = 1024
_LONGEST_HEADER_BYTES: Final = 12
_WINDOW_BYTES: Final = 32 * 1024
_INFLATE_BYTES: Final = 64 * 1024


class Source(Protocol):
    """The bytes of a data set. Positions only grow, but for overlaps within one window."""

    size_bytes: int

    def read(self, position: int, size_bytes: int) -> bytes | memoryview:
        """Up to `size_bytes` bytes from `position`; fewer only at the end."""


class BytesSource:
    """A data set in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self.size_bytes = len(data)

    def read(self, position: int, size_bytes: int) -> memoryview:
        """A view of what is there."""
        return self._data[position : position + size_bytes]


class FileSource:
    """A data set in an open file, from `start` to the file's end or for `size_bytes`."""

    def __init__(self, descriptor: int, start: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self.size_bytes = size_bytes

    def read(self, position: int, size_bytes: int) -> bytes:
        """What the file holds there."""
        size_bytes = min(size_bytes, self.size_bytes - position)
        return os.pread(self._descriptor, size_bytes, self._start + position) if size_bytes > 0 else b""


class _InflatedSource:
    """A deflated data set, inflated piece by piece.

    Raises:
        RefusedObjectError: from the constructor, if the stream is corrupt or truncated, or longer
            than `max_bytes` once inflated.
    """

    def __init__(self, deflated: Source, max_bytes: int) -> None:
        self._deflated = deflated
        # The walk must know where the data set ends, so the stream is inflated once only to measure it.
        self._restart()
        size_bytes = 0
        while piece := self._piece():
            size_bytes += len(piece)
            if size_bytes > max_bytes:
                raise RefusedObjectError(Outcome.TOO_LARGE, f"The inflated data set is longer than {max_bytes} bytes")
        if not self._inflater.eof:
            raise _truncated(deflated.size_bytes)
        self.size_bytes = size_bytes
        self._restart()

    def _restart(self) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._consumed = 0
        self._held = b""
        self._held_at = 0

    def _piece(self) -> bytes:
        """The next inflated bytes; none at the stream's end."""
        while not self._inflater.eof:
            packed: bytes | memoryview = self._inflater.unconsumed_tail
            if not packed:
                packed = self._deflated.read(self._consumed, _INFLATE_BYTES)
                self._consumed += len(packed)
            try:
                piece = self._inflater.decompress(packed, _INFLATE_BYTES)
            except zlib.error as error:
                raise RefusedObjectError(Outcome.MALFORMED, "The deflated data set is corrupt") from error
            if piece or not packed:
                return piece
        return b""

    def read(self, position: int, size_bytes: int) -> bytes:
        """Inflated bytes; what lies before `position` is let go."""
        while self._held_at + len(self._held) < position + size_bytes and (piece := self._piece()):
            skipped = min(max(position - self._held_at, 0), len(self._held))
            self._held = self._held[skipped:] + piece
            self._held_at += skipped
        offset = position - self._held_at
        return self._held[offset : offset + size_bytes]


class _Walk:
    """One pass over a data set. `found` receives the top level's wanted values as raw bytes."""

    def __init__(
        self, source: Source, wanted: Collection[int], *, little: bool, max_elements: int = MAX_ELEMENTS
    ) -> None:
        self._elements_left = max_elements
        self._source = source
        self._data: bytes | memoryview = b""
        self._base = 0
        self._window_end = 0
        self._wanted = wanted
        self._tag = struct.Struct("<HH" if little else ">HH").unpack_from
        self._u16 = struct.Struct("<H" if little else ">H").unpack_from
        self._u32 = struct.Struct("<I" if little else ">I").unpack_from
        self.found: dict[int, bytes] = {}

    def _move(self, position: int) -> int:
        """Move the window so that it begins at `position`; the offset of `position` in it."""
        self._data = self._source.read(position, _WINDOW_BYTES)
        self._base = position
        self._window_end = position + len(self._data)
        return 0

    def _offset(self, position: int) -> int:
        """Where in the window an element's header at `position` begins."""
        if self._base <= position and position + _LONGEST_HEADER_BYTES <= self._window_end:
            return position - self._base
        return self._move(position)

    def _count(self) -> None:
        self._elements_left -= 1
        if self._elements_left < 0:
            raise RefusedObjectError(Outcome.TOO_LARGE, f"The data set has more than {MAX_ELEMENTS} elements")

    def _value(self, position: int, size_bytes: int) -> bytes:
        offset = position - self._base
        if position + size_bytes > self._window_end:
            offset = self._move(position)
        return bytes(self._data[offset : offset + size_bytes])

    def elements(self, position: int, end: int, *, implicit: bool, depth: int, in_item: bool = False) -> int:
        """Walk elements up to `end`, or past the delimiter of an item of undefined length."""
        while position < end:
            offset = self._offset(position)
            data = self._data
            if end - position < 8:
                if depth == 0 and not any(data[offset : offset + end - position]):
                    return end  # padding after the last element
                raise _truncated(position)
            group, element = self._tag(data, offset)
            tag = group << 16 | element
            self._count()
            if group == 0xFFFE:
                if in_item and tag == _ITEM_END:
                    return position + 8
                raise RefusedObjectError(Outcome.MALFORMED, "An item delimiter stands outside of a sequence")
            vr = b"" if implicit else bytes(data[offset + 4 : offset + 6])
            if vr in _LONG_VRS:
                if end - position < 12:
                    raise _truncated(position)
                (length,) = self._u32(data, offset + 8)
                start = position + 12
            elif vr.isalpha() and vr.isupper():
                (length,) = self._u16(data, offset + 6)
                start = position + 8
            else:  # implicit VR, or an element that a sender left implicit in an explicit data set
                (length,) = self._u32(data, offset + 4)
                start = position + 8
            if length == _UNDEFINED:
                if depth == 0 and tag in self._wanted:
                    self.found[tag] = b""
                position = self._undefined(tag, vr, start, end, implicit=implicit, depth=depth)
                continue
            position = start + length
            if position > end:
                raise _truncated(start)
            if depth == 0 and tag in self._wanted:
                # Of pixels it is enough to know that they are there.
                self.found[tag] = b"" if group == _PIXEL_GROUP else self._value(start, min(length, _MAX_VALUE_BYTES))
        if in_item:
            raise _truncated(position)
        return position

    def _undefined(self, tag: int, vr: bytes, start: int, end: int, *, implicit: bool, depth: int) -> int:
        if tag == _PIXEL_DATA or vr in (b"OB", b"OW"):
            return self._items(start, end, implicit=implicit, depth=depth, fragments=True)
        if vr == b"UN":
            # PS3.5 section 6.2.2, note 4: the content is Implicit VR Little Endian.
            nested = _Walk(self._source, (), little=True, max_elements=self._elements_left)
            nested._data, nested._base, nested._window_end = self._data, self._base, self._window_end
            position = nested._items(start, end, implicit=True, depth=depth, fragments=False)
            self._data, self._base, self._window_end = nested._data, nested._base, nested._window_end
            self._elements_left = nested._elements_left
            return position
        return self._items(start, end, implicit=implicit, depth=depth, fragments=False)

    def _items(self, position: int, end: int, *, implicit: bool, depth: int, fragments: bool) -> int:
        if depth >= _MAX_DEPTH:
            raise RefusedObjectError(Outcome.MALFORMED, "Sequences are nested too deeply")
        while True:
            if end - position < 8:
                raise _truncated(position)
            offset = self._offset(position)
            group, element = self._tag(self._data, offset)
            (length,) = self._u32(self._data, offset + 4)
            position += 8
            tag = group << 16 | element
            self._count()
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


def walk(source: Source, transfer_syntax_uid: str, wanted: Collection[int], *, max_bytes: int) -> Mapping[int, bytes]:
    """The raw values (at most 1024 bytes each) of those elements in `wanted` that the top level has.

    An element of undefined length and one that holds pixels count as empty.

    Raises:
        RefusedObjectError: the data set is truncated, is no data set in this transfer syntax, or
            inflates to more than `max_bytes`.
    """
    if transfer_syntax_uid in _DEFLATED:
        source = _InflatedSource(source, max_bytes)
    little = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    implicit = transfer_syntax_uid in (IMPLICIT_VR_LITTLE_ENDIAN, _PAPYRUS_3_IMPLICIT)
    search = _Walk(source, wanted, little=little)
    search.elements(0, source.size_bytes, implicit=implicit, depth=0)
    return search.found


def _truncated(position: int) -> RefusedObjectError:
    return RefusedObjectError(Outcome.MALFORMED, f"The data set is truncated: a value after byte {position}")
