"""Objects whose data set is deflated (PS3.5 section A.5), inflated only as far as they are read.

pydicom would inflate them whole, whatever their size.
"""

from __future__ import annotations

import io
import zlib

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from shared.errors import OversizedPixelsError, UndecodablePixelsError
from shared.pixels.limits import PixelLimits

_STEP_BYTES = 1 << 18


def deflated_object(data: bytes, limits: PixelLimits) -> DeflatedObject | None:
    """The object in Part-10 bytes as a file, if its data set is deflated.

    Raises:
        UndecodablePixelsError: its file meta information does not say where it ends.
    """
    deflated, plain = DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode()
    if deflated not in data[:2048]:
        return None
    # PS3.10 section 7.1: (0002,0000) UL, 4 bytes: the length of what follows it in group 2.
    if data[132:136] != b"\x02\x00\x00\x00":
        raise UndecodablePixelsError("a deflated data set without a file meta group length")
    start = 144 + int.from_bytes(data[140:144], "little")
    if deflated not in data[:start]:
        return None
    # The same length, so that the group length and the element's own stay right; UIDs are padded with NULs.
    meta = data[:start].replace(deflated, plain.ljust(len(deflated), b"\0"))
    return DeflatedObject(meta, memoryview(data)[start:], limits.max_decoded_bytes)


class DeflatedObject(io.RawIOBase):
    """A file of the explicit little-endian object that a deflated one is. What was inflated is kept."""

    def __init__(self, meta: bytes, deflated: memoryview, max_bytes: int) -> None:
        self._inflated = bytearray(meta)
        self._deflated = deflated
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._max_bytes = max_bytes
        self._size = 0
        self._at = 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        if whence == io.SEEK_END:
            self.whole()
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._inflated)}[whence]
        self._at = origin + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """As of any file.

        Raises:
            OversizedPixelsError: the data set inflates beyond the limit before `size` bytes are read.
        """
        end = None if size is None or size < 0 else self._at + size
        while (end is None or len(self._inflated) < end) and (chunk := self._next()):
            self._inflated += chunk
        found = bytes(memoryview(self._inflated)[self._at : end])
        self._at += len(found)
        return found

    def whole(self) -> bytearray:
        """All bytes of the object, inflated. Raises as `read`."""
        while chunk := self._next():
            self._inflated += chunk
        return self._inflated

    def size_bytes(self) -> int:
        """Of the whole object, without keeping the rest of it: it cannot be read any more. Raises as `read`."""
        size = len(self._inflated)
        while chunk := self._next():
            size += len(chunk)
        return size

    def _next(self) -> bytes:
        """The next inflated bytes; none at the end, or where the object is cut off."""
        while not self._inflater.eof:
            # With all input taken there may still be output to come.
            piece: bytes | memoryview = self._inflater.unconsumed_tail
            if not piece:
                piece, self._deflated = self._deflated[:_STEP_BYTES], self._deflated[_STEP_BYTES:]
            chunk = self._inflater.decompress(piece, _STEP_BYTES)
            self._size += len(chunk)
            if self._size > self._max_bytes:
                raise OversizedPixelsError(f"the data set inflates beyond the limit of {self._max_bytes} bytes")
            if chunk or not piece:
                return chunk
        return b""
