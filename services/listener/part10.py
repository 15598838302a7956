"""DICOM files around data sets as received: PS3.10 section 7.1."""

from __future__ import annotations

import struct
from dataclasses import dataclass
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
_SENDING_AE_TITLE: Final = 0x00020017


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the file says of how its data set came."""

    transfer_syntax_uid: str
    sending_ae_title: str


def encode_file_head(*, sop_class_uid: str, sop_instance_uid: str, meta: FileMeta, receiving_ae_title: str) -> bytes:
    """Preamble, prefix and file meta group for a data set whose bytes follow unchanged."""
    group = b"".join(
        (
            struct.pack("<HH2s2xI", 0x0002, 0x0001, b"OB", 2) + b"\0\1",
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", meta.transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x0017, b"AE", meta.sending_ae_title),
            _short(0x0018, b"AE", receiving_ae_title),
        )
    )
    return _HEAD + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group)) + group


def split_file(file: bytes) -> tuple[FileMeta, memoryview]:
    """The file meta and the data set, a view of `file`, of a file that `encode_file_head` began.

    Raises:
        RefusedObjectError: it is no such file.
    """
    if len(file) < 144 or not file.startswith(_HEAD):
        raise RefusedObjectError(Outcome.MALFORMED, "Not a DICOM file")
    end = 144 + struct.unpack_from("<I", file, 140)[0]
    wanted = (_TRANSFER_SYNTAX_UID, _SENDING_AE_TITLE)
    found = elements.walk(file[144:end], _EXPLICIT_VR_LITTLE_ENDIAN, wanted, max_bytes=end)
    transfer_syntax_uid, sending = (found.get(tag, b"").decode("latin-1").strip(" \0") for tag in wanted)
    return FileMeta(transfer_syntax_uid, sending), memoryview(file)[end:]


def _short(element: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("ascii", errors="replace")
    if len(raw) % 2:
        raw += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(raw)) + raw
