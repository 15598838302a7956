"""The head of a DICOM file that someone else wrote, read as it arrives: PS3.10 section 7.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from services.listener.answers import Outcome, RefusedObjectError

_PREAMBLE_BYTES: Final = 128
_PREFIX: Final = b"DICM"
_START: Final = _PREAMBLE_BYTES + len(_PREFIX)
_MAX_HEAD_BYTES: Final = 64 << 10
_MAX_UID_BYTES: Final = 64
_GROUP: Final = 0x0002
_GROUP_LENGTH: Final = 0x0000
_SOP_CLASS_UID: Final = 0x0002
_SOP_INSTANCE_UID: Final = 0x0003
_TRANSFER_SYNTAX_UID: Final = 0x0010
_WANTED: Final = frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSFER_SYNTAX_UID})
# PS3.5 section 7.1.2: a length of four bytes follows two that are reserved.
_LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"})


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What a file says of its data set; empty where it says nothing."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class FileMetaReader:
    """Reads preamble, prefix and file meta group. It holds 64 KiB at most.

    The group ends where its length says or, in a file that lacks it, before the first element of
    another group.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0
        self._end: int | None = None
        self._found: dict[int, str] = {}

    def feed(self, data: bytes | memoryview) -> bytes | None:
        """Take the file's next bytes; once the data set has begun, as much of it as is there.

        Raises:
            RefusedObjectError: this is no DICOM file, or its file meta group cannot be read.
        """
        taken = _MAX_HEAD_BYTES - len(self._buffer)
        self._buffer += data[:taken]
        if self._is_complete():
            return bytes(self._buffer[self._position :]) + bytes(data[taken:])
        if len(self._buffer) >= _MAX_HEAD_BYTES:
            raise _malformed("The file meta group is too long")
        return None

    @property
    def meta(self) -> FileMeta:
        """What has been read so far."""
        return FileMeta(
            self._found.get(_SOP_CLASS_UID, ""),
            self._found.get(_SOP_INSTANCE_UID, ""),
            self._found.get(_TRANSFER_SYNTAX_UID, ""),
        )

    def _is_complete(self) -> bool:
        buffer = self._buffer
        if not self._position:
            if len(buffer) < _START:
                return False
            if buffer[_PREAMBLE_BYTES:_START] != _PREFIX:
                raise _malformed("Not a DICOM file")
            self._position = _START
        while self._position != self._end:
            if len(buffer) < self._position + 8:
                return False
            group, element, vr, length = struct.unpack_from("<HH2sH", buffer, self._position)
            if group != _GROUP:
                if self._end is None and self._position > _START:
                    return True
                raise _malformed("The file meta group is missing, or not as long as it says")
            if not (vr.isalpha() and vr.isupper()):
                raise _malformed("The file meta group is not in Explicit VR")
            start = self._position + 8
            if vr in _LONG_VRS:
                if len(buffer) < start + 4:
                    return False
                (length,) = struct.unpack_from("<I", buffer, start)
                start += 4
            if len(buffer) < start + length:
                return False
            self._take(element, bytes(buffer[start : start + length]), start + length)
        return True

    def _take(self, element: int, value: bytes, end: int) -> None:
        if element == _GROUP_LENGTH and self._position == _START:
            if len(value) != 4:
                raise _malformed("The file meta group's length cannot be read")
            self._end = end + int.from_bytes(value, "little")
        elif element in _WANTED:
            # One byte more than a UID may have shows that it is none; a stranger's value is not kept whole.
            self._found[element] = value[: _MAX_UID_BYTES + 2].decode("latin-1").strip(" \0")
        self._position = end


def _malformed(comment: str) -> RefusedObjectError:
    return RefusedObjectError(Outcome.MALFORMED, comment)
