"""Parsing of DICOM objects, and what is asked of one before its pixels are decoded."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from pydicom import Dataset, dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from shared.errors import NotAnImageError, OversizedPixelsError, PermanentError, UndecodablePixelsError
from shared.pixels.limits import PixelLimits

_PIXEL_TAGS: Final = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What selects and orders the frames of a series.

    Attributes:
        number_of_frames: At least 1.
        instance_number: Instance Number (0020,0013), if it is a number.
        position_mm: Image Position (Patient) along the normal of its plane; None without geometry.
        image_type: Values of Image Type (0008,0008), in capitals.
    """

    number_of_frames: int
    instance_number: int | None
    position_mm: float | None
    image_type: tuple[str, ...]


def read_header(data: bytes, *, limits: PixelLimits) -> ImageHeader:
    """The header of the image in DICOM Part-10 bytes; no pixel is decoded.

    Raises:
        NotAnImageError: not DICOM, or an object without pixels.
        UndecodablePixelsError: the data set is damaged.
    """
    dataset = parse(data, limits)
    with guarded("header"):
        return ImageHeader(
            number_of_frames=number_of_frames(dataset),
            instance_number=_integer(dataset.get("InstanceNumber")),
            position_mm=_position(dataset),
            image_type=tuple(str(value).strip().upper() for value in _values(dataset.get("ImageType"))),
        )


@dataclass(frozen=True, slots=True)
class ImageObject:
    """An image object, read up to its pixels: they are never copied as a whole.

    Attributes:
        dataset: Every element before the pixels. pydicom converts elements when they are first read: do so under
            `guarded`.
        data: The bytes it was read from; of a deflated object what it inflates to.
        keyword: The element that holds the pixels.
        vr: Its value representation; OW where the encoding is implicit.
        value_at: Where its value starts in `data`.
        length: Bytes of its value; None where it is undefined: the pixels are encapsulated then.
    """

    dataset: Dataset
    data: bytes
    keyword: str
    vr: str
    value_at: int
    length: int | None

    @property
    def value(self) -> memoryview:
        """The element's value; shorter than `length` where the object is truncated."""
        end = None if self.length is None else self.value_at + self.length
        return memoryview(self.data)[self.value_at : end]


def open_image(data: bytes, limits: PixelLimits) -> ImageObject:
    """An image object's data set, and where its pixels lie.

    Raises:
        NotAnImageError: not DICOM, or an object without pixels.
        OversizedPixelsError: a deflated data set inflates beyond the limit.
        UndecodablePixelsError: the data set is damaged.
    """
    with guarded("not readable as DICOM"):
        dataset, source, end = _read(data, limits)
        found = _pixel_element(dataset, source, end)
        if found is None:
            _refuse_without_pixels(dataset)
        return ImageObject(dataset, source, *found)


def parse(data: bytes, limits: PixelLimits) -> Dataset:
    """The data set of an image object, without its pixels. Read its elements under `guarded`.

    Raises:
        NotAnImageError, OversizedPixelsError, UndecodablePixelsError: as `open_image`.
    """
    return open_image(data, limits).dataset


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Work on a data set: pydicom's warnings about odd but readable values are left out, failures become one of ours.

    Raises:
        UndecodablePixelsError: anything but one of our own errors was raised; the message is `what` and the
            class of what was raised. Its text is left out, and not chained: libraries quote elements' values in it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except PermanentError:
            raise
        # pydicom and its decoders raise nearly every built-in exception on damaged input.
        except Exception as error:  # noqa: BLE001
            raise UndecodablePixelsError(f"{what}: {type(error).__name__}") from None
        # A panic in a decoder written in Rust (RLE) is no Exception, and its class cannot be imported.
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise UndecodablePixelsError(f"{what}: the decoder failed") from None


def number_of_frames(dataset: Dataset) -> int:
    """Number of Frames (0028,0008), 1 where it is absent or no positive number."""
    return max(1, _integer(dataset.get("NumberOfFrames")) or 1)


def transfer_syntax(dataset: Dataset) -> UID:
    """The transfer syntax, worked out from the encoding where the file does not say."""
    named = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if named:
        return UID(named)
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def registered_name(uid: object, otherwise: str) -> str:
    """A UID's name in PS3.6 table A-1; `otherwise` for any other text, which may be anything."""
    entry = UID_dictionary.get(str(uid))
    return entry[0] if entry else otherwise


def _read(data: bytes, limits: PixelLimits) -> tuple[Dataset, bytes, int]:
    """The data set before its pixels, the bytes it was read from, and where in them reading ended."""
    has_preamble = data[128:132] == b"DICM"
    # Without a preamble only what starts with an element of group 2 or 8 is taken for DICOM.
    if not has_preamble and data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        raise NotAnImageError("not a DICOM object")
    if has_preamble and DeflatedExplicitVRLittleEndian.encode() in data[:2048]:
        data = _inflated(data, limits)
    stream = io.BytesIO(data)
    dataset = dcmread(stream, force=not has_preamble, stop_before_pixels=True)
    if has_preamble and len(dataset) == 0:  # pydicom's answer where an element of undefined length never ends
        raise UndecodablePixelsError("not readable as DICOM: the data set is empty or cut off")
    if not has_preamble and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise NotAnImageError("not a DICOM object")
    return dataset, data, stream.tell()


def _pixel_element(dataset: Dataset, data: bytes, at: int) -> tuple[str, str, int, int | None] | None:
    """Keyword, VR, place and length of the value of the pixel element whose tag is at `at`: PS3.5 section 7.1."""
    is_implicit, is_little_endian = dataset.original_encoding
    order = "<" if is_little_endian is not False else ">"
    if at + 8 > len(data):
        return None
    group, element = struct.unpack_from(f"{order}HH", data, at)
    keyword = _PIXEL_TAGS.get((group, element))
    if keyword is None:
        return None
    if is_implicit:
        vr, value_at = "OW", at + 8
    else:
        vr = data[at + 4 : at + 6].decode("ascii", "replace")
        # OB, OW, OF, OD and UN have a length of 4 bytes after 2 reserved ones.
        value_at = at + 12
        if value_at > len(data):
            return None
    length = struct.unpack_from(f"{order}I", data, value_at - 4)[0]
    return keyword, vr, value_at, None if length == 0xFFFFFFFF else length


def _refuse_without_pixels(dataset: Dataset) -> NoReturn:
    sop_class = registered_name(dataset.get("SOPClassUID"), "an object of an unknown SOP class")
    if "Rows" in dataset and "Columns" in dataset:
        raise UndecodablePixelsError(f"{sop_class}: the pixel data is missing; the object may be truncated")
    raise NotAnImageError(f"{sop_class} holds no pixels")


def _inflated(data: bytes, limits: PixelLimits) -> bytes:
    """A deflated object (PS3.5 section A.5) as the explicit little-endian one that it is, if within the limit.

    pydicom would inflate it whole, whatever its size.
    """
    # PS3.10 section 7.1: (0002,0000) UL, 4 bytes: the length of what follows it in group 2.
    if data[132:136] != b"\x02\x00\x00\x00":
        raise UndecodablePixelsError("a deflated data set without a file meta group length")
    start = 144 + int.from_bytes(data[140:144], "little")
    meta = data[:start]
    deflated, plain = DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode()
    if deflated not in meta:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = data[start:]
    chunks: list[bytes] = []
    size = 0
    while not inflater.eof:
        # With all input taken there may still be output to come.
        chunk = inflater.decompress(rest, 1 << 20)
        rest = inflater.unconsumed_tail
        if not chunk and not rest:
            break
        chunks.append(chunk)
        size += len(chunk)
        if size > limits.max_decoded_bytes:
            raise OversizedPixelsError(f"the data set inflates beyond the limit of {limits.max_decoded_bytes} bytes")
    # The same length, so that the group length and the element's own stay right; UIDs are padded with NULs.
    return meta.replace(deflated, plain.ljust(len(deflated), b"\0")) + b"".join(chunks)


def _position(dataset: Dataset) -> float | None:
    """Distance along the plane's normal: PS3.3 section C.7.6.2.1.1."""
    try:
        orientation = np.array([float(value) for value in dataset.ImageOrientationPatient])
        position = np.array([float(value) for value in dataset.ImagePositionPatient])
        distance = float(np.cross(orientation[:3], orientation[3:]) @ position)
    except (AttributeError, TypeError, ValueError):
        return None
    return distance if math.isfinite(distance) else None


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
