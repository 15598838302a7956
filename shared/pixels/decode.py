"""DICOM objects to frames: limits, decoding, colour, then the grey-scale pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID, RLELossless

from shared.errors import UndecodablePixelsError
from shared.pixels.codestream import codestream_size
from shared.pixels.frame import Frame
from shared.pixels.grey import FrameAttributes, display_values
from shared.pixels.header import guarded, number_of_frames, parse, registered_name, transfer_syntax
from shared.pixels.limits import PixelLimits

# The decoders give RGB for the last two (PS3.3 section C.7.6.3.1.2): the transform is JPEG 2000's own.
_RGB = ("RGB", "YBR_RCT", "YBR_ICT")
# Only these may be named in an error: any other text in the element may be anything. PS3.3 section C.7.6.3.1.2.
_KNOWN_PHOTOMETRIC = frozenset(
    (
        *_RGB,
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "HSV",
        "ARGB",
        "CMYK",
        "XYB",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_PARTIAL_422",
        "YBR_PARTIAL_420",
    )
)


def read_frames(data: bytes, *, frame_numbers: Sequence[int] | None = None, limits: PixelLimits) -> list[Frame]:
    """Frames of the image in DICOM Part-10 bytes, ready for display.

    Args:
        data: The whole file.
        frame_numbers: Which frames, from 1, in this order; None: all. Only these are decoded.
        limits: Checked by the header, and by the header inside each compressed frame, before decoding.

    Raises:
        NotAnImageError: not DICOM, or an object without pixels.
        OversizedPixelsError: a limit is exceeded.
        UndecodablePixelsError: damaged, truncated, or in an encoding that cannot be decoded; names both the
            transfer syntax and the frame.
    """
    return list(iter_frames(data, frame_numbers=frame_numbers, limits=limits))


def iter_frames(data: bytes, *, frame_numbers: Sequence[int] | None = None, limits: PixelLimits) -> Iterator[Frame]:
    """As `read_frames`, with one decoded frame in memory at a time."""
    dataset = parse(data, limits)
    with guarded("header"):
        syntax = transfer_syntax(dataset)
        wanted = _wanted(dataset, frame_numbers)
        _check_limits(dataset, len(wanted), limits)
    for number in wanted:
        # Not around the yield: the caller's code must not run under the guard.
        with guarded(f"{_name(syntax)}, frame {number}"):
            _check_codestream(dataset, syntax, number, limits)
            frame = _decode(dataset, syntax, number)
        yield frame


def _wanted(dataset: Dataset, frame_numbers: Sequence[int] | None) -> Sequence[int]:
    count = number_of_frames(dataset)
    if frame_numbers is None:
        return range(1, count + 1)
    if beyond := [number for number in frame_numbers if not 1 <= number <= count]:
        raise UndecodablePixelsError(f"the object has {count} frames, not a frame {beyond[0]}")
    return frame_numbers


def _check_limits(dataset: Dataset, frames: int, limits: PixelLimits) -> None:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 8)
    # A palette makes three samples of one; a frame is float32 in the end.
    samples = 3 if dataset.get("PhotometricInterpretation") == "PALETTE COLOR" else samples
    limits.check(rows=rows, columns=columns, bytes_per_pixel=samples * max(4, bits // 8), frames=frames)


def _check_codestream(dataset: Dataset, syntax: UID, number: int, limits: PixelLimits) -> None:
    """A compressed frame says its size again, and its decoder believes it rather than the data set."""
    if not syntax.is_encapsulated or syntax == RLELossless:
        return
    encoded = get_frame(dataset.PixelData, number - 1, number_of_frames=number_of_frames(dataset))
    size = codestream_size(encoded)
    if size is None:
        return
    limits.check(rows=size[0], columns=size[1], bytes_per_pixel=4 * int(dataset.get("SamplesPerPixel") or 1))
    if size != (dataset.Rows, dataset.Columns):
        raise UndecodablePixelsError(
            f"{_name(syntax)}, frame {number}: the compressed image is {size[0]} x {size[1]}, "
            f"the data set says {int(dataset.Rows)} x {int(dataset.Columns)}"
        )


def _decode(dataset: Dataset, syntax: UID, number: int) -> Frame:
    pixels, described = get_decoder(syntax).as_array(dataset, index=number - 1)
    attributes = FrameAttributes.of(dataset, number)
    photometric = str(described["photometric_interpretation"])
    if photometric.startswith("MONOCHROME"):
        shown = display_values(pixels, attributes)
    elif photometric == "PALETTE COLOR":
        shown = _scaled(apply_color_lut(pixels, dataset)[..., :3], int(dataset.RedPaletteColorLookupTableDescriptor[2]))
    elif photometric in _RGB:
        shown = _scaled(pixels, int(dataset.BitsStored))
    else:
        named = photometric if photometric in _KNOWN_PHOTOMETRIC else "this photometric interpretation"
        raise UndecodablePixelsError(f"{_name(syntax)}, frame {number}: {named} is not supported")
    return Frame(shown, number, _pixel_aspect(attributes))


def _name(syntax: UID) -> str:
    return registered_name(syntax, "an unknown transfer syntax")


def _scaled(pixels: NDArray[Any], bits: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.clip(pixels.astype(np.float32) / (2.0**bits - 1.0), 0.0, 1.0, dtype=np.float32)
    return scaled


def _pixel_aspect(attributes: FrameAttributes) -> float:
    """Height of a pixel divided by its width, 1 where unknown or beyond belief."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):  # all vertical first
        value = attributes.get("PixelMeasuresSequence", keyword)
        try:
            vertical, horizontal = (float(part) for part in value)
            aspect = vertical / horizontal
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        if math.isfinite(aspect) and 0.05 <= aspect <= 20.0:
            return aspect
    return 1.0
