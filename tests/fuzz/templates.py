"""Small valid objects in several transfer syntaxes, and the files of pydicom's test data, with UIDs of one's own."""

from __future__ import annotations

import random
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pydicom.data
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from services.listener.negotiation import TRANSFER_SYNTAXES
from tests.fuzz import streams
from tests.fuzz.streams import CONTEXTS

# What a log, an event or a file name must never show.
IDENTITY: Final = ("Fuzzed^Person", "SECRETID77", "19310412")
STUDY, SERIES, SOP = (f"1.2.826.0.1.3680043.8.498.{kind}.{'9' * 16}" for kind in (1, 2, 3))
_LARGEST_FILE_BYTES: Final = 120_000


@dataclass(frozen=True)
class Origin:
    """A valid data set: where its elements' lengths stand, and what of it identifies a person."""

    name: str
    data_set: bytes
    transfer_syntax: str
    sop_class: str
    sop: str
    lengths: tuple[int, ...]
    """Offsets of values; the length is the 2 or 4 bytes before each."""
    identity: tuple[str, ...] = ()


def uid_like(template: str, rng: random.Random) -> str:
    """A UID of one's own, as long as `template`."""
    tail = "".join(rng.choice("123456789") for _ in range(min(16, len(template) - 2)))
    return template[: len(template) - len(tail)] + tail


@cache
def template(context_id: int) -> bytes:
    """A small object in a context's transfer syntax, not deflated yet."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CONTEXTS[context_id][0], SOP
    ds.StudyDate, ds.Modality = "20250310", "MR"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = IDENTITY
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    ds.ReferencedImageSequence = Sequence([item, Dataset()])
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated = 16
    ds.PixelData = bytes(32)
    ds["PixelData"].VR = "OW"
    transfer_syntax = CONTEXTS[context_id][1]
    buffer = DicomBytesIO()
    buffer.is_little_endian = transfer_syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    write_dataset(buffer, ds)
    return buffer.getvalue()


def small_object(context_id: int, rng: random.Random, *, study: str = "", sop: str = "") -> tuple[str, bytes]:
    """A valid object of one's own for a context: SOP Instance UID and data set."""
    sop = sop or uid_like(SOP, rng)
    data = template(context_id)
    for old, new in ((SOP, sop), (STUDY, study or uid_like(STUDY, rng)), (SERIES, uid_like(SERIES, rng))):
        data = data.replace(old.encode(), new.encode())
    return sop, encoded(data, CONTEXTS[context_id][1])


def encoded(data: bytes, transfer_syntax: str) -> bytes:
    """`data` as its transfer syntax wants it: deflated, or as it is."""
    if transfer_syntax != DeflatedExplicitVRLittleEndian:
        return data
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    raw = deflate.compress(data) + deflate.flush()
    return raw + b"\0" * (len(raw) % 2)


@cache
def origins() -> tuple[Origin, ...]:
    """The templates, and those files of pydicom's test data that have what an object needs."""
    found = [
        Origin(
            f"template-{context_id}", template(context_id), CONTEXTS[context_id][1], CONTEXTS[context_id][0], SOP, ()
        )
        for context_id in (3, 5, 7, 9)
    ]
    # What pydicom would have to download first is left out.
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm")):
        # Some of them are damaged on purpose, and say so.
        if path.is_file() and "truncated" not in path.name and path.stat().st_size <= _LARGEST_FILE_BYTES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                origin = _origin(path)
            if origin is not None:
                found.append(origin)
    return tuple(found)


def _origin(path: Path) -> Origin | None:
    try:
        ds = dcmread(path)
        meta = ds.file_meta
        sop, sop_class, syntax = str(ds.SOPInstanceUID), str(ds.SOPClassUID), str(meta.TransferSyntaxUID)
        ds.StudyInstanceUID, ds.SeriesInstanceUID  # noqa: B018 - there or not
    except Exception:
        return None
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    if raw[128:132] != b"DICM" or len(sop) < 20 or syntax not in TRANSFER_SYNTAXES:
        return None
    lengths = tuple(
        element.value_tell - start
        for element in dcmread(path)._dict.values()
        if getattr(element, "value_tell", 0) > start + 8
    )
    data_set = raw[start:]
    if syntax == DeflatedExplicitVRLittleEndian:
        data_set, lengths = zlib.decompress(data_set, -zlib.MAX_WBITS), ()
    uids = f"{sop} {ds.StudyInstanceUID} {ds.SeriesInstanceUID}"
    values = (str(ds.get(keyword, "")).strip() for keyword in ("PatientName", "PatientID", "PatientBirthDate"))
    identity = tuple(value for value in values if len(value) > 5 and value not in uids)
    return Origin(path.name, data_set, syntax, sop_class, sop, lengths, identity)


def commitment(references: list[tuple[str, str]], transaction: str, *, message_id: int = 1) -> streams.Message:
    """An N-ACTION request for storage commitment of SOP classes and instances: PS3.4 table J.3-1."""
    head = streams.command(
        streams.N_ACTION_RQ,
        sop_class=streams.COMMITMENT,
        sop="1.2.840.10008.1.20.1.1",
        message_id=message_id,
        has_data_set=True,
    )
    items = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
        for sop_class, sop in references
        for item in (_explicit_uid(0x1150, sop_class) + _explicit_uid(0x1155, sop),)
    )
    sequence = struct.pack("<HH2sxxI", 0x0008, 0x1199, b"SQ", len(items)) + items
    return streams.Message(11, head, _explicit_uid(0x1195, transaction) + sequence)


def _explicit_uid(element: int, uid: str) -> bytes:
    raw = uid.encode()
    raw += b"\0" * (len(raw) % 2)
    return struct.pack("<HH2sH", 0x0008, element, b"UI", len(raw)) + raw
