"""A request for storage commitment as it arrives: the data set of an N-ACTION-RQ, PS3.4 table J.3-1.

It is read by hand: a few elements of it count, its sequence may have tens of thousands of items, and
what a stranger sends must be refused without a warning or a deep stack.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple, TypeAlias

from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from services.listener.elements import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from shared.ids import is_valid_uid

MAX_REFERENCES: Final = 100_000

_REFERENCED_SOP_CLASS_UID: Final = 0x00081150
_REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155
_TRANSACTION_UID: Final = 0x00081195
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_UIDS: Final = frozenset({_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID, _TRANSACTION_UID})
_LONG_VRS: Final = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_MAX_DEPTH: Final = 16
_MAX_INFLATED_BYTES: Final = 64 << 20

_Found: TypeAlias = "dict[int, bytes | list[_Found]]"


class CommitmentRequestError(Exception):
    """A data set that is no request for storage commitment."""


class TooManyReferencesError(CommitmentRequestError):
    """More instances than one request may name."""


class Reference(NamedTuple):
    """An instance that a request names."""

    sop_class_uid: str
    sop_instance_uid: str


def read_request(data: bytes, transfer_syntax_uid: str) -> tuple[str, tuple[Reference, ...]]:
    """The Transaction UID, and the instances in their order; every UID is valid.

    Raises:
        TooManyReferencesError: it names more than MAX_REFERENCES instances.
        CommitmentRequestError: it is malformed, or lacks what PS3.4 table J.3-1 requires.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        data = _inflated(data)
    reader = _Reader(data, little=transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN)
    implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    try:
        found, _ = reader.elements(0, len(data), implicit=implicit, depth=0, in_item=False)
    except struct.error:
        raise CommitmentRequestError("it ends within an element") from None
    items = found.get(_REFERENCED_SOP_SEQUENCE)
    if not isinstance(items, list) or not items:
        raise CommitmentRequestError("it names no instance")
    return _uid(found, _TRANSACTION_UID), tuple(
        Reference(_uid(item, _REFERENCED_SOP_CLASS_UID), _uid(item, _REFERENCED_SOP_INSTANCE_UID)) for item in items
    )


def _uid(found: _Found, tag: int) -> str:
    raw = found.get(tag)
    text = raw.rstrip(b"\0 ").decode("ascii", errors="replace") if isinstance(raw, bytes) else ""
    if not is_valid_uid(text):
        raise CommitmentRequestError(f"its element {tag:08X} is no UID")
    return text


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, _MAX_INFLATED_BYTES)
    except zlib.error:
        raise CommitmentRequestError("it cannot be inflated") from None
    if not inflater.eof:
        raise CommitmentRequestError("it is truncated, or too long once inflated")
    return plain


class _Reader:
    """Elements of a data set in memory: PS3.5 sections 7.1 and 7.5. Whatever is not asked for is stepped over."""

    def __init__(self, data: bytes, *, little: bool) -> None:
        self._data = data
        self._tag = struct.Struct("<HH" if little else ">HH").unpack_from
        self._u16 = struct.Struct("<H" if little else ">H").unpack_from
        self._u32 = struct.Struct("<I" if little else ">I").unpack_from
        self._items_read = 0

    def elements(self, position: int, end: int, *, implicit: bool, depth: int, in_item: bool) -> tuple[_Found, int]:
        """What counts of the elements up to `end` or past an item's delimiter, and where that is."""
        found: _Found = {}
        while position < end:
            group, element = self._tag(self._data, position)
            tag = group << 16 | element
            if tag == _ITEM_END and in_item:
                return found, position + 8
            vr, start, length = self._header(position, implicit=implicit)
            if length == _UNDEFINED or vr == b"SQ" or tag == _REFERENCED_SOP_SEQUENCE:
                stop = end if length == _UNDEFINED else start + length
                if stop > end:
                    raise CommitmentRequestError("a sequence is longer than what holds it")
                # PS3.5 section 6.2.2, note 4: what is in a UN element is Implicit VR.
                items, position = self._items(
                    start, stop, implicit=implicit or vr == b"UN", depth=depth, is_open=length == _UNDEFINED
                )
                if tag == _REFERENCED_SOP_SEQUENCE:
                    found[tag] = items
                continue
            position = start + length
            if position > end:
                raise CommitmentRequestError("it ends within an element")
            if tag in _UIDS:
                found[tag] = self._data[start:position]
        if in_item:
            raise CommitmentRequestError("it ends within an item")
        return found, position

    def _header(self, position: int, *, implicit: bool) -> tuple[bytes, int, int]:
        """An element's VR, where its value begins, and the value's length."""
        vr = b"" if implicit else self._data[position + 4 : position + 6]
        if vr in _LONG_VRS:
            return vr, position + 12, self._u32(self._data, position + 8)[0]
        if vr.isalpha() and vr.isupper():
            return vr, position + 8, self._u16(self._data, position + 6)[0]
        return b"", position + 8, self._u32(self._data, position + 4)[0]

    def _items(self, position: int, end: int, *, implicit: bool, depth: int, is_open: bool) -> tuple[list[_Found], int]:
        """A sequence's items, and where it ends."""
        if depth >= _MAX_DEPTH:
            raise CommitmentRequestError("its sequences are nested too deeply")
        items: list[_Found] = []
        while position < end:
            group, element = self._tag(self._data, position)
            (length,) = self._u32(self._data, position + 4)
            tag, position = group << 16 | element, position + 8
            if tag == _SEQUENCE_END and is_open:
                return items, position
            if tag != _ITEM:
                raise CommitmentRequestError("a sequence holds something that is no item")
            self._items_read += 1
            if self._items_read > MAX_REFERENCES:
                raise TooManyReferencesError(f"it has more than {MAX_REFERENCES} items")
            is_open_item = length == _UNDEFINED
            stop = end if is_open_item else position + length
            if stop > end:
                raise CommitmentRequestError("an item is longer than its sequence")
            item, position = self.elements(position, stop, implicit=implicit, depth=depth + 1, in_item=is_open_item)
            items.append(item)
        if is_open:
            raise CommitmentRequestError("it ends within a sequence")
        return items, position
