"""Uploads as a hostile or broken client sends them: damaged files, bombs, and forms that are hardly any."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import zlib
from typing import Final

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from tests.fuzz.query import wire
from tests.fuzz.query.answers import MARK
from tests.services.query.light_box_seed import mr_slice, not_an_image, picture

_HEAD: Final = 1200
"""Where the meaning is: damage falls there more often than on pixels."""
ROUTES: Final = ("/v1/search/upload", "/v1/matches/upload?sop_instance_uid=2.25.4711.1.1.0")
NAMES: Final = (
    "scan.dcm",
    f"../../../../tmp/{MARK}",
    f"..\\..\\{MARK}.dcm",
    f"{MARK}\x00.dcm",
    f"{MARK}\r\nX-Injected: {MARK}",
    f"/etc/{MARK}",
    "",
    f"{MARK}" * 600,
    f'{MARK}"; filename="b',
    f"{MARK};\u202e gnp.exe",
    f"\ud800{MARK}",
    f"%00{MARK}%0d%0a",
)
TYPES: Final = (
    "application/dicom",
    "image/png",
    "text/html",
    f"{MARK}/x",
    "multipart/form-data; boundary=inner",
    "",
    "image/svg+xml",
    "message/external-body; access-type=URL",
    "application/x-gzip",
)
CHARSETS: Final = (
    "utf-8",
    "utf-16",
    "utf-7",
    "idna",
    "undefined",
    "rot13",
    "hex",
    "zip",
    "unicode_escape",
    f"{MARK}\x00",
)
BOUNDARIES: Final = (
    "b",
    "-" * 60,
    "x" * 300,
    'q"uo"te',
    " spaced ",
    "b\x00c",
    "é",
    "",
    "--",
    "b;charset=utf-8",
    "'()+_,-./:=?",
)


@functools.cache
def files() -> tuple[bytes, ...]:
    """Whole files of every kind that is taken, and one that holds no image."""
    plain = mr_slice(
        "2.25.9", "2.25.9.1", "2.25.9.1.1", picture(3, "normal", 0.5, 40), instance_number=1, position_mm=0.0
    )
    grey = Image.fromarray((picture(4, "glioma-like", 0.4, 40) // 16).astype(np.uint8))
    pictures = (("L", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("RGB", "JPEG"))
    return (
        *(plain, _frames(plain), _deflated(plain), _nested(plain, 3), not_an_image()),
        *(_saved(grey.convert(mode), kind) for mode, kind in pictures),
    )


@functools.cache
def bombs() -> tuple[bytes, ...]:
    """Small files that claim to be, or become, huge or endless ones."""
    plain = files()[0]
    huge = [_saved_dicom(plain, Rows=65535, Columns=65535), _saved_dicom(plain, NumberOfFrames=2**31 - 1)]
    huge += [_saved_dicom(plain, NumberOfFrames=-5), _saved_dicom(plain, Rows=0), _saved_dicom(plain, BitsAllocated=0)]
    huge += [_saved_dicom(plain, SamplesPerPixel=65535), _saved_dicom(plain, BitsAllocated=64, BitsStored=64)]
    pictures = [
        _png(60_000, 60_000, zlib.compress(bytes(3_000_000), 9)),
        _png(2**31 - 1, 2**31 - 1, b""),
        _png(0, 0, b""),
    ]
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(60_000_000), 9))
    pictures += [files()[5][:33] + text + files()[5][33:], files()[5][:33] + _chunk(b"IDAT", b"") * 20_000]
    jpeg = bytearray(files()[8])
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    return (*huge, *pictures, bytes(jpeg), _deflated_bomb(), _undefined_depth(15_000), _nested(plain, 200))


@st.composite
def uploaded(draw: st.DrawFn) -> bytes:
    """A file: whole, damaged, or a bomb."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(bombs()))
    if kind == 1:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(files())))
    for _ in range(draw(st.integers(0, 5))):
        within = min(len(data), _HEAD) if draw(st.booleans()) else len(data)
        place, size = draw(st.integers(0, max(within - 1, 0))), draw(st.integers(1, 40))
        change = draw(st.sampled_from(("flip", "cut", "drop", "repeat", "fill", "splice", "length")))
        if change == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[place:]
        elif change == "drop":
            del data[place : place + size]
        elif change == "repeat":
            data[place:place] = data[place : place + size] * draw(st.integers(1, 30))
        elif change == "fill":
            data[place : place + size] = bytes([draw(st.sampled_from((0, 255, 0x2E, 0x0A)))]) * size
        elif change == "splice":
            other = draw(st.sampled_from(files()))
            data[place:] = other[draw(st.integers(0, len(other))) :]
        else:
            data[place : place + 4] = draw(
                st.sampled_from((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", bytes(4)))
            )
    return bytes(data)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A whole request with an upload, and whether HTTP demands an answer to it."""
    data, target = draw(uploaded()), draw(st.sampled_from(ROUTES))
    if draw(st.booleans()):
        kind, body = _form(draw, data)
    else:
        kind, body = plain_form(data)
    headers = [("Content-Type", kind)] if kind is not None else []
    way = draw(st.sampled_from(("length", "length", "length", "chunked", "gzip", "short", "long", "expect")))
    if way == "chunked":
        return wire.chunked("POST", target, headers, body, draw(st.sampled_from((7, 1000, 65536)))), True
    if way == "gzip":
        return wire.with_body("POST", target, [*headers, ("Content-Encoding", "gzip")], gzip.compress(body)), True
    if way == "short":  # it announces less than it sends
        told = draw(st.integers(0, len(body)))
        return wire.head("POST", target, [*headers, ("Content-Length", str(told))]) + body, True
    if way == "long":  # it announces more, and waits
        told = len(body) + draw(st.sampled_from((1, 1000, 10**7, 10**18)))
        return wire.head("POST", target, [*headers, ("Content-Length", str(told))]) + body, False
    if way == "expect":
        headers.append(("Expect", "100-continue"))
    return wire.with_body("POST", target, headers, body), True


def plain_form(data: bytes) -> tuple[str, bytes]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="scan"\r\n\r\n'
    return "multipart/form-data; boundary=b", head + data + b"\r\n--b--\r\n"


def _form(draw: st.DrawFn, data: bytes) -> tuple[str | None, bytes]:
    boundary = draw(st.sampled_from(BOUNDARIES))
    line = draw(st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\n")))
    body = draw(st.sampled_from((b"", b"", b"preamble\r\n", b"\r\n" * 50)))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, 40)))):
        name = draw(st.sampled_from(("file", "file", "file", "files", "", MARK, "file\x00", "f" * 5000)))
        file_name = draw(st.sampled_from(NAMES))
        said = f'form-data; name="{name}"'
        said += draw(
            st.sampled_from(
                (f'; filename="{file_name}"', f"; filename*=UTF-8''{file_name}", "", f"; filename={file_name}")
            )
        )
        headers = [f"Content-Disposition: {said}", f"Content-Type: {draw(st.sampled_from(TYPES))}"]
        headers += draw(
            st.sampled_from(([], ["Content-Transfer-Encoding: base64"], [f"X-{MARK}: {'x' * 9000}"], ["no colon"]))
        )
        part = [b"--" + boundary.encode(), *(header.encode("utf-8", "surrogatepass") for header in headers), b"", data]
        body += line.join(part) + line
    body += draw(st.sampled_from((b"--" + boundary.encode() + b"--", b"--" + boundary.encode() + b"--", b"", b"--")))
    charset = draw(st.sampled_from(("", "", f"; charset={draw(st.sampled_from(CHARSETS))}")))
    kind = draw(
        st.sampled_from(
            (
                f"multipart/form-data; boundary={boundary}",
                f'multipart/form-data; boundary="{boundary}"',
                "multipart/form-data",
                "multipart/mixed; boundary=b",
                "application/x-www-form-urlencoded",
                "application/json",
                None,
            )
        )
    )
    # What HTTP itself forbids in a header is for the raw cases.
    return (None if kind is None else "".join(c for c in kind + charset if c.isprintable() and c.isascii())), body


def _frames(plain: bytes) -> bytes:
    dataset = dcmread(io.BytesIO(plain))
    dataset.NumberOfFrames = 3
    dataset.PixelData = dataset.PixelData * 3
    return _written(dataset)


def _saved_dicom(plain: bytes, **values: int) -> bytes:
    dataset = dcmread(io.BytesIO(plain))
    for name, value in values.items():
        setattr(dataset, name, value)
    return _written(dataset)


def _nested(plain: bytes, depth: int) -> bytes:
    dataset = dcmread(io.BytesIO(plain))
    inner = Dataset()
    inner.PatientName = dataset.PatientName
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    dataset.ReferencedImageSequence = inner.ReferencedImageSequence
    return _written(dataset)


def _undefined_depth(depth: int) -> bytes:
    """Sequences of undefined length in each other: 20 bytes a level, and none is closed."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    level = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return _written(dataset) + level * depth


def _deflated(plain: bytes) -> bytes:
    return _written(dcmread(io.BytesIO(plain)), str(DeflatedExplicitVRLittleEndian))


def _deflated_bomb() -> bytes:
    """A data set of a hundred megabytes of zeros, deflated."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    start = _written(dataset, str(DeflatedExplicitVRLittleEndian))
    meta_length = 132 + 12 + struct.unpack("<I", start[140:144])[0]
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 100_000_000)
    return start[:meta_length] + squeezer.compress(head + bytes(100_000_000)) + squeezer.flush()


def _written(dataset: Dataset, syntax: str = str(ExplicitVRLittleEndian)) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4")
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.9.1.1"
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def _png(width: int, height: int, data: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
