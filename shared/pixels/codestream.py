"""The size that a compressed frame claims, read from its first markers."""

from __future__ import annotations

from typing import Final

from shared.errors import UndecodablePixelsError

_J2K_START: Final = b"\xff\x4f\xff\x51"  # SOC, SIZ: ISO/IEC 15444-1 section A.5.1; also of HTJ2K
_JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "  # ISO/IEC 15444-1 section I.5.1
_JPEG_START: Final = b"\xff\xd8"
# SOF markers of JPEG (ISO/IEC 10918-1 table B.1) and JPEG-LS (ISO/IEC 14495-1 section C.2.2).
_SOF: Final = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))


def codestream_size(encoded: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K code stream; None if it is none or names no size.

    Raises:
        UndecodablePixelsError: the boxes around a JPEG 2000 code stream lead nowhere.
    """
    if encoded.startswith(_JPEG_START):
        return _jpeg_size(encoded)
    start = _after_boxes(encoded) if encoded.startswith(_JP2_SIGNATURE) else 0
    is_j2k = encoded[start : start + len(_J2K_START)] == _J2K_START
    return _j2k_size(encoded[start + len(_J2K_START) : start + 64]) if is_j2k else None


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


def _j2k_size(after_siz: bytes) -> tuple[int, int] | None:
    if len(after_siz) < 20:
        return None
    # Lsiz and Rsiz take 2 bytes each; then Xsiz, Ysiz, XOsiz, YOsiz.
    x_end, y_end, x_start, y_start = (int.from_bytes(after_siz[at : at + 4], "big") for at in range(4, 20, 4))
    return y_end - y_start, x_end - x_start


def _jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(encoded):
        if encoded[at] != 0xFF:
            return None
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _SOF:
            rows, columns = (int.from_bytes(encoded[i : i + 2], "big") for i in (at + 5, at + 7))
            return (rows, columns) if rows else None  # 0: given later, by a DNL marker
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None
