"""What a compressed frame says of itself in its first markers: its decoder believes that, not the data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import UndecodablePixelsError

_J2K_START: Final = b"\xff\x4f\xff\x51"  # SOC, SIZ: ISO/IEC 15444-1 section A.5.1; also of HTJ2K
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "  # ISO/IEC 15444-1 section I.5.1
_JPEG_START: Final = b"\xff\xd8"
# SOF markers of JPEG (ISO/IEC 10918-1 table B.1) and JPEG-LS (ISO/IEC 14495-1 section C.2.2).
_SOF: Final = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_APP0, _SOS = 0xE0, 0xDA
# Rsiz of a code stream that needs ISO/IEC 15444-2: its table A.10 gives bit 15 that meaning.
_PART_2: Final = 0x8000


@dataclass(frozen=True, slots=True)
class CodeStream:
    """The header of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K code stream.

    Attributes:
        precision: Bits of a sample of the first component.
        is_signed: Of the first component; only JPEG 2000 knows signed samples.
        component_ids: Of JPEG and JPEG-LS; empty in JPEG 2000.
        is_jfif: A JFIF marker is there, which means YCbCr colour.
        needs_part_2: A JPEG 2000 code stream with extensions of ISO/IEC 15444-2.
    """

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool = False
    component_ids: tuple[int, ...] = ()
    is_jfif: bool = False
    needs_part_2: bool = False


def read_codestream(encoded: bytes) -> CodeStream | None:
    """The header of a code stream; None if the bytes are none, or name no size.

    Raises:
        UndecodablePixelsError: the boxes around a JPEG 2000 code stream lead nowhere.
    """
    if encoded.startswith(_JPEG_START):
        return _jpeg(encoded)
    start = _after_boxes(encoded) if encoded.startswith(_JP2_SIGNATURE) else 0
    is_j2k = encoded[start : start + len(_J2K_START)] == _J2K_START
    return _j2k(encoded[start + len(_J2K_START) : start + 64]) if is_j2k else None


def _after_boxes(encoded: bytes) -> int:
    """Where a JP2 container's code stream starts: ISO/IEC 15444-1 section I.4.

    pydicom 3.0.2 walks the same boxes and never ends on one of length 0, so that is refused here.
    """
    at = len(_JP2_SIGNATURE) + 4
    while at < len(encoded):
        length, kind = int.from_bytes(encoded[at : at + 4], "big"), encoded[at + 4 : at + 8]
        if kind == b"jp2c":
            return at + 8
        if length < 8:
            raise UndecodablePixelsError(f"a JP2 box of length {length}")
        at += length
    return at


def _j2k(siz: bytes) -> CodeStream | None:
    """From Lsiz on: ISO/IEC 15444-1 section A.5.1."""
    if len(siz) < 40:
        return None
    x_end, y_end, x_start, y_start = (int.from_bytes(siz[at : at + 4], "big") for at in range(4, 20, 4))
    return CodeStream(
        rows=y_end - y_start,
        columns=x_end - x_start,
        components=int.from_bytes(siz[36:38], "big"),
        precision=(siz[38] & 0x7F) + 1,
        is_signed=bool(siz[38] & 0x80),
        needs_part_2=bool(int.from_bytes(siz[2:4], "big") & _PART_2),
    )


def _jpeg(encoded: bytes) -> CodeStream | None:
    at, is_jfif = 2, False
    while at + 10 <= len(encoded):
        if encoded[at] != 0xFF:
            return None
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        if marker in _SOF:
            return _sof(encoded, at, is_jfif=is_jfif)
        if marker == _SOS:
            return None
        is_jfif |= marker == _APP0 and encoded[at + 4 : at + 8] == b"JFIF"
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


def _sof(encoded: bytes, at: int, *, is_jfif: bool) -> CodeStream | None:
    rows, columns = (int.from_bytes(encoded[i : i + 2], "big") for i in (at + 5, at + 7))
    components = encoded[at + 9]
    if not rows or not columns:  # given later, by a DNL marker or an LSE segment
        return None
    ids = tuple(encoded[at + 10 : at + 10 + 3 * components : 3])
    return CodeStream(rows, columns, components, encoded[at + 4], component_ids=ids, is_jfif=is_jfif)
