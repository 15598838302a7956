"""DICOM files around data sets as received: PS3.10 section 7.1."""

from __future__ import annotations

import os
import struct
from typing import Final
from uuid import uuid5

from services.listener import elements
from services.listener.answers import Outcome, RefusedObjectError
from shared.ids import NAMESPACE

IMPLEMENTATION_CLASS_UID: Final = f"2.25.{uuid5(NAMESPACE, 'similis').int}"
IMPLEMENTATION_VERSION_NAME: Final = "SIMILIS_1"
_HEAD: Final = b"\0" * 128 + b"DICM"
_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
_TRANSFER_SYNTAX_UID: Final = 0x00020010
# Preamble, prefix, and the group length with its value.
_FIXED_BYTES: Final = 144
_MAX_META_BYTES: Final = 1 << 16


def encode_file_head(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta group for a data set whose bytes follow unchanged.

    It does not say who sent the object: the same data set makes the same file, whoever sends it.
    """
    group = b"".join(
        (
            _VERSION,
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax_uid),
            _IMPLEMENTATION,
        )
    )
    return _HEAD + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group)) + group


def read_file_head(descriptor: int) -> tuple[str, int]:
    """The Transfer Syntax UID of an open file that `encode_file_head` began, and where its data set starts.

    Raises:
        RefusedObjectError: it is no such file.
    """
    start = os.pread(descriptor, _FIXED_BYTES, 0)
    if len(start) < _FIXED_BYTES or not start.startswith(_HEAD):
        raise RefusedObjectError(Outcome.MALFORMED, "Not a DICOM file")
    size_bytes = int(struct.unpack_from("<I", start, _FIXED_BYTES - 4)[0])
    group = elements.FileSource(descriptor, _FIXED_BYTES, min(size_bytes, _MAX_META_BYTES))
    found = elements.walk(group, _EXPLICIT_VR_LITTLE_ENDIAN, (_TRANSFER_SYNTAX_UID,), max_bytes=_MAX_META_BYTES)
    transfer_syntax_uid = found.get(_TRANSFER_SYNTAX_UID, b"").decode("latin-1").strip(" \0")
    return transfer_syntax_uid, _FIXED_BYTES + size_bytes


def _short(element: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("ascii", errors="replace")
    if len(raw) % 2:
        raw += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(raw)) + raw


_VERSION: Final = struct.pack("<HH2s2xI", 0x0002, 0x0001, b"OB", 2) + b"\0\1"
_IMPLEMENTATION: Final = _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID) + _short(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME
)
