"""An uploaded file to frames: DICOM, PNG or JPEG, told apart by content, never by its name."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from pydantic import JsonValue

from services.query.pictures import encode_png
from shared.errors import NotAnImageError
from shared.pixels import PixelLimits
from shared.pixels.frame import Frame
from shared.pixels.frame_reader import FrameReader

PNG_START: Final = b"\x89PNG\r\n\x1a\n"
JPEG_START: Final = b"\xff\xd8\xff"
PREVIEW_PX: Final = 512
# Generators of clients know a file by this; OpenAPI 3.1 says it by the media type alone, which stands beside it.
BINARY: Final[dict[str, JsonValue]] = {"format": "binary"}


def read_upload(
    data: bytes, reader: FrameReader, *, frame_number: int | None, max_frames: int, limits: PixelLimits
) -> list[Frame]:
    """The frames to search by: the one asked for, else up to `max_frames` chosen evenly.

    Raises:
        NotAnImageError: the file is no DICOM, PNG or JPEG, or a DICOM object without an image.
        UndecodablePixelsError: the image is damaged, too large, in an unknown encoding, or its decoder failed.
        DecodersUnavailableError: no decoder is to be had just now.
    """
    if data.startswith((PNG_START, JPEG_START)):
        return reader.read(data, is_picture=True, max_decoded_bytes=limits.max_decoded_bytes)
    if data[128:132] != b"DICM":
        raise NotAnImageError("the file is neither DICOM (Part 10) nor PNG nor JPEG")
    # The reader's processes read the header, too: one of a few megabytes may hold so many elements that they take
    # gigabytes and minutes.
    most = limits.max_decoded_bytes
    if frame_number is not None:
        return reader.read(data, [frame_number], max_decoded_bytes=most)
    return reader.read(data, max_decoded_bytes=most, evenly=max_frames)


def preview(frames: Sequence[Frame]) -> str:
    """A small PNG of the middle frame as a data: URI, so that a page can show a DICOM upload."""
    picture = encode_png(frames[len(frames) // 2], PREVIEW_PX)
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
