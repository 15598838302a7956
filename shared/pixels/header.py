"""Parsing of DICOM objects, and what is asked of one before its pixels are decoded."""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

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

PIXEL_KEYWORDS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


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


def parse(data: bytes, limits: PixelLimits) -> Dataset:
    """The data set of an image object. pydicom converts elements when they are first read: do so under `guarded`.

    Raises:
        NotAnImageError: not DICOM, or an object without pixels.
        UndecodablePixelsError: the data set is damaged.
    """
    with guarded("not readable as DICOM"):
        dataset = _read(data, limits)
        _check_is_image(dataset)
    return dataset


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


def _read(data: bytes, limits: PixelLimits) -> Dataset:
    has_preamble = data[128:132] == b"DICM"
    # Without a preamble only what starts with an element of group 2 or 8 is taken for DICOM.
    if not has_preamble and data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        raise NotAnImageError("not a DICOM object")
    if has_preamble:
        _check_inflated_size(data, limits)
    dataset = dcmread(io.BytesIO(data), force=not has_preamble)
    if has_preamble and len(dataset) == 0:  # pydicom's answer where an element of undefined length never ends
        raise UndecodablePixelsError("not readable as DICOM: the data set is empty or cut off")
    if not has_preamble and not any(keyword in dataset for keyword in ("SOPClassUID", *PIXEL_KEYWORDS)):
        raise NotAnImageError("not a DICOM object")
    return dataset


def _check_is_image(dataset: Dataset) -> None:
    if any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        return
    sop_class = registered_name(dataset.get("SOPClassUID"), "an object of an unknown SOP class")
    if "Rows" in dataset and "Columns" in dataset:
        raise UndecodablePixelsError(f"{sop_class}: the pixel data is missing; the object may be truncated")
    raise NotAnImageError(f"{sop_class} holds no pixels")


def _check_inflated_size(data: bytes, limits: PixelLimits) -> None:
    """Refuse a deflated data set (PS3.5 section A.5) that would inflate beyond the limit; pydicom inflates it whole."""
    if DeflatedExplicitVRLittleEndian.encode() not in data[:2048]:
        return
    # PS3.10 section 7.1: (0002,0000) UL, 4 bytes: the length of what follows it in group 2.
    if data[132:136] != b"\x02\x00\x00\x00":
        raise UndecodablePixelsError("a deflated data set without a file meta group length")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = data[144 + int.from_bytes(data[140:144], "little") :]
    inflated = 0
    while rest and not inflater.eof:
        inflated += len(inflater.decompress(rest, 1 << 20))
        rest = inflater.unconsumed_tail
        if inflated > limits.max_decoded_bytes:
            raise OversizedPixelsError(f"the data set inflates beyond the limit of {limits.max_decoded_bytes} bytes")


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
