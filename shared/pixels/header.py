"""Parsing of DICOM objects, and what is asked of one before its pixels are decoded."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from pydicom import Dataset, dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from shared.errors import NotAnImageError, PermanentError, UndecodablePixelsError
from shared.pixels.deflated import DeflatedObject, deflated_object
from shared.pixels.frame_count import frames_held, integer, number_of_frames
from shared.pixels.limits import PixelLimits
from shared.pixels.quick_dataset import QuickDataset, quick_dataset
from shared.pixels.quiet import quiet

_PIXEL_TAGS: Final = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What selects and orders the frames of a series.

    Attributes:
        number_of_frames: At least 1, and no more than the pixels can hold.
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
        OversizedPixelsError: a deflated data set inflates beyond the limit.
        UndecodablePixelsError: the data set is damaged, or claims more frames than its pixels can hold.
    """
    dataset, frames = parse(data, limits)
    with guarded("header"):
        return ImageHeader(
            number_of_frames=frames,
            instance_number=integer(dataset.get("InstanceNumber")),
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
    data: bytes | bytearray
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
        dataset, stream = _data_set(data, limits)
        element = _pixel_element(dataset, stream)
        return ImageObject(dataset, data if isinstance(stream, io.BytesIO) else stream.whole(), *element)


def parse(data: bytes, limits: PixelLimits) -> tuple[Dataset, int]:
    """The data set of an image object, without its pixels, and how many frames it has.

    Read its elements under `guarded`. A deflated object is inflated up to its pixels, and these are not kept.

    Raises:
        NotAnImageError, OversizedPixelsError, UndecodablePixelsError: as `read_header`.
    """
    with guarded("not readable as DICOM"):
        dataset, stream = _data_set(data, limits)
        keyword, _, value_at, length = _pixel_element(dataset, stream)
        if number_of_frames(dataset) == 1:
            return dataset, 1
        size = len(data) if isinstance(stream, io.BytesIO) else stream.size_bytes()
        return dataset, frames_held(dataset, keyword, length, size - value_at)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Work on a data set: pydicom's warnings about odd but readable values are left out, failures become one of ours.

    Raises:
        UndecodablePixelsError: anything but one of our own errors was raised; the message is `what` and the
            class of what was raised. Its text is left out, and not chained: libraries quote elements' values in it.
    """
    with quiet():
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


def transfer_syntax(dataset: Dataset) -> UID:
    """The transfer syntax, worked out from the encoding where the file does not say."""
    if isinstance(dataset, QuickDataset):
        return dataset.transfer_syntax
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


def _has_preamble(data: bytes) -> bool:
    return data[128:132] == b"DICM"


def _stream(data: bytes, limits: PixelLimits) -> io.BytesIO | DeflatedObject:
    """The object as a file of what pydicom is to read."""
    # Without a preamble only what starts with an element of group 2 or 8 is taken for DICOM.
    if not _has_preamble(data):
        if data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
            raise NotAnImageError("not a DICOM object")
        return io.BytesIO(data)
    return deflated_object(data, limits) or io.BytesIO(data)


def _data_set(data: bytes, limits: PixelLimits) -> tuple[Dataset, io.BytesIO | DeflatedObject]:
    """The data set before its pixels, and what it was read from, which stands at the pixels."""
    if (found := quick_dataset(data)) is not None:
        whole = io.BytesIO(data)
        whole.seek(found[1])
        return found[0], whole
    stream = _stream(data, limits)
    has_preamble = _has_preamble(data)
    dataset = dcmread(stream, force=not has_preamble, stop_before_pixels=True)
    if has_preamble and len(dataset) == 0:  # pydicom's answer where an element of undefined length never ends
        raise UndecodablePixelsError("not readable as DICOM: the data set is empty or cut off")
    if not has_preamble and "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise NotAnImageError("not a DICOM object")
    return dataset, stream


def _pixel_element(dataset: Dataset, stream: io.BytesIO | DeflatedObject) -> tuple[str, str, int, int | None]:
    """Keyword, VR, place and length of the value of the pixel element that comes next: PS3.5 section 7.1."""
    is_implicit, is_little_endian = dataset.original_encoding
    order = "<" if is_little_endian is not False else ">"
    at = stream.tell()
    start = stream.read(12)
    keyword = _PIXEL_TAGS.get(struct.unpack_from(f"{order}HH", start)) if len(start) >= 8 else None
    # OB, OW, OF, OD and UN have a length of 4 bytes after 2 reserved ones.
    size = 8 if is_implicit else 12
    if keyword is None or len(start) < size:
        _refuse_without_pixels(dataset)
    vr = "OW" if is_implicit else start[4:6].decode("ascii", "replace")
    length = struct.unpack_from(f"{order}I", start, size - 4)[0]
    return keyword, vr, at + size, None if length == 0xFFFFFFFF else length


def _refuse_without_pixels(dataset: Dataset) -> NoReturn:
    sop_class = registered_name(dataset.get("SOPClassUID"), "an object of an unknown SOP class")
    if "Rows" in dataset and "Columns" in dataset:
        raise UndecodablePixelsError(f"{sop_class}: the pixel data is missing; the object may be truncated")
    raise NotAnImageError(f"{sop_class} holds no pixels")


def _position(dataset: Dataset) -> float | None:
    """Distance along the plane's normal: PS3.3 section C.7.6.2.1.1."""
    try:
        orientation = np.array([float(value) for value in dataset.ImageOrientationPatient])
        position = np.array([float(value) for value in dataset.ImagePositionPatient])
        distance = float(np.cross(orientation[:3], orientation[3:]) @ position)
    except (AttributeError, TypeError, ValueError):
        return None
    return distance if math.isfinite(distance) else None


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
