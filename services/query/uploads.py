"""An uploaded file to frames: DICOM, PNG or JPEG, told apart by content, never by its name."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

import numpy as np

from services.query.pictures import encode_png
from shared.errors import NotAnImageError
from shared.pixels import PixelLimits, read_frames, read_header, read_image
from shared.pixels.frame import Frame

PNG_START: Final = b"\x89PNG\r\n\x1a\n"
JPEG_START: Final = b"\xff\xd8\xff"
PREVIEW_PX: Final = 512


def read_upload(data: bytes, *, frame_number: int | None, max_frames: int, limits: PixelLimits) -> list[Frame]:
    """The frames to search by: the one asked for, else up to `max_frames` chosen evenly.

    Raises:
        NotAnImageError: the file is no DICOM, PNG or JPEG, or a DICOM object without an image.
        UndecodablePixelsError: the image is damaged, too large, or in an unknown encoding.
    """
    if data.startswith((PNG_START, JPEG_START)):
        return [read_image(data, limits=limits)]
    if data[128:132] != b"DICM":
        raise NotAnImageError("the file is neither DICOM (Part 10) nor PNG nor JPEG")
    if frame_number is not None:
        return read_frames(data, frame_numbers=[frame_number], limits=limits)
    count = read_header(data, limits=limits).number_of_frames
    return read_frames(data, frame_numbers=_evenly(count, max_frames), limits=limits)


def preview(frames: Sequence[Frame]) -> str:
    """A small PNG of the middle frame as a data: URI, so that a page can show a DICOM upload."""
    picture = encode_png(frames[len(frames) // 2], PREVIEW_PX)
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _evenly(count: int, most: int) -> list[int]:
    """Up to `most` frame numbers from 1 to `count`, evenly, with both ends."""
    picked = np.unique(np.linspace(1, count, num=min(count, most)).round().astype(int))
    return [int(number) for number in picked]
