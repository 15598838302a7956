"""Where the compressed frames of an encapsulated object lie: PS3.5 section A.4.

The items are walked once, whatever the number of frames, and nothing is copied before a frame is asked for. What
is cut off or damaged costs the frames it touches, not the others.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom import Dataset

from shared.errors import UndecodablePixelsError

_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0"
# SOI and another marker of JPEG and JPEG-LS, SOC and SIZ of JPEG 2000, the signature box of a JP2 container.
_STARTS_OF_STREAM = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
# EOI of JPEG and JPEG-LS, EOC of JPEG 2000: the same two bytes. A fragment may be padded after it.
_END_OF_STREAM = b"\xff\xd9"
_PADDING_BYTES = 10


@dataclass(frozen=True, slots=True)
class Fragment:
    """An item of the pixel data: where its tag starts, its value starts and ends, in bytes of the object."""

    tag_at: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class EncapsulatedFrames:
    """The compressed frames of one object."""

    data: bytes | bytearray
    frames: tuple[tuple[Fragment, ...], ...]
    is_cut_off: bool

    def frame(self, number: int) -> bytes:
        """The code stream of frame `number`, from 1.

        Raises:
            UndecodablePixelsError: the object has no such fragment, or it is cut off.
        """
        fragments = self.frames[number - 1] if number <= len(self.frames) else ()
        if not fragments:
            raise UndecodablePixelsError("the frame's fragments are missing; the object may be truncated")
        if fragments[-1].end > len(self.data):
            raise UndecodablePixelsError("the frame is truncated")
        if len(fragments) == 1:
            return bytes(self.data[fragments[0].start : fragments[0].end])
        return b"".join(self.data[fragment.start : fragment.end] for fragment in fragments)


def encapsulated_frames(data: bytes | bytearray, value_at: int, frames: int, dataset: Dataset) -> EncapsulatedFrames:
    """Find the frames in an encapsulated Pixel Data element.

    Args:
        data: The object.
        value_at: Where the element's value starts: at the Basic Offset Table's item.
        frames: Number of frames.
        dataset: For its Extended Offset Table (PS3.3 section C.7.6.3.1.8), if it has one.

    Raises:
        UndecodablePixelsError: there is no Basic Offset Table item, or without a table in it the fragments do not
            tell which frame they belong to.
    """
    items, is_complete = _items(data, value_at)
    if not items:
        raise UndecodablePixelsError("encapsulated pixel data without items")
    table, fragments = items[0], items[1:]
    offsets = _extended_offsets(dataset, frames) or _basic_offsets(bytes(data[table.start : table.end]), frames)
    grouped = _by_offset(fragments, offsets) if offsets else None
    if grouped is None:
        grouped = _by_order(data, fragments, frames, is_complete=is_complete)
    return EncapsulatedFrames(data, tuple(grouped), not is_complete)


def _items(data: bytes | bytearray, at: int) -> tuple[list[Fragment], bool]:
    items: list[Fragment] = []
    while at + 8 <= len(data):
        tag, length = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if tag == _DELIMITER:
            return items, True
        if tag != _ITEM or length == 0xFFFFFFFF:
            return items, False
        items.append(Fragment(at, at + 8, at + 8 + length))
        at += 8 + length
    return items, False


def _extended_offsets(dataset: Dataset, frames: int) -> tuple[int, ...]:
    table = dataset.get("ExtendedOffsetTable")
    if not isinstance(table, bytes) or len(table) != 8 * frames:
        return ()
    return struct.unpack(f"<{frames}Q", table)


def _basic_offsets(table: bytes, frames: int) -> tuple[int, ...]:
    return struct.unpack(f"<{frames}I", table) if len(table) == 4 * frames else ()


def _by_offset(fragments: list[Fragment], offsets: tuple[int, ...]) -> list[tuple[Fragment, ...]] | None:
    """The fragments between one offset and the next; None where the table does not fit the items."""
    if not fragments or list(offsets) != sorted(set(offsets)):
        return None
    first = fragments[0].tag_at
    place = {fragment.tag_at - first: index for index, fragment in enumerate(fragments)}
    starts = [place.get(offset) for offset in offsets]
    known = [start for start in starts if start is not None]
    # Offsets beyond the last item belong to frames that were cut off.
    if starts[: len(known)] != known or any(offset in place for offset in offsets[len(known) :]):
        return None
    ends = [*known[1:], len(fragments)]
    if len(known) < len(starts) and offsets[len(known)] <= fragments[-1].tag_at - first:
        return None
    grouped = [tuple(fragments[start:end]) for start, end in zip(known, ends, strict=True)]
    return grouped if grouped else None


def _by_order(
    data: bytes | bytearray, fragments: list[Fragment], frames: int, *, is_complete: bool
) -> list[tuple[Fragment, ...]]:
    """Without a table: all of a single frame, the fragments of each code stream, or one each.

    PS3.5 section A.4.2 on: only code streams may be split into fragments. One frame more or less than there should be
    would put other pixels under every number after it, so their number must be right; only the last may be cut off.
    """
    if frames == 1:
        return [tuple(fragments)]
    starts = [data.startswith(_STARTS_OF_STREAM, fragment.start, fragment.end) for fragment in fragments]
    grouped: list[list[Fragment]] = []
    is_ended = True
    for fragment, is_start in zip(fragments, starts, strict=True):
        if is_ended or is_start or not any(starts):
            grouped.append([])
        grouped[-1].append(fragment)
        is_ended = _END_OF_STREAM in data[max(fragment.start, fragment.end - _PADDING_BYTES) : fragment.end]
    if len(grouped) > frames or (is_complete and len(grouped) < frames):
        raise UndecodablePixelsError("without an offset table it is unknown which fragments make which frame")
    return [tuple(group) for group in grouped]
