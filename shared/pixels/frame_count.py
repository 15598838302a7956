"""How many frames an object has: Number of Frames (0028,0008) is believed as far as its pixels can hold them."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset

from shared.errors import UndecodablePixelsError

_HALF_COLOUR = ("YBR_FULL_422", "YBR_PARTIAL_422")
_FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
_ITEM_BYTES = 8


def number_of_frames(dataset: Dataset) -> int:
    """Number of Frames, 1 where it is absent or no positive number."""
    return max(1, integer(dataset.get("NumberOfFrames")) or 1)


def frames_held(dataset: Dataset, keyword: str, length: int | None, held_bytes: int) -> int:
    """Number of Frames, at most those whose bytes are there, and one more where the object is cut off.

    That one is reported when it is read: the loss shows, and costs nothing for what is claimed beyond it.

    Args:
        dataset: The object's.
        keyword: The element that holds the pixels.
        length: Bytes that it claims; None where the pixels are encapsulated.
        held_bytes: Bytes of the object from where its value starts.

    Raises:
        UndecodablePixelsError: the element cannot hold so many, even where nothing is cut off.
    """
    claimed = number_of_frames(dataset)
    if claimed == 1:
        return 1
    if length is None:
        if claimed > held_bytes // _ITEM_BYTES:  # PS3.5 section A.4: an item for each at least
            raise UndecodablePixelsError("more frames are claimed than the pixel data can hold")
        return claimed
    bits = _bits_per_frame(dataset, keyword)
    if bits < 1 or claimed > 8 * length // bits:
        raise UndecodablePixelsError("more frames are claimed than the pixel data can hold")
    return min(claimed, 8 * held_bytes // bits + 1)


def integer(value: Any) -> int | None:
    """A value as an integer, None where it is none."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _bits_per_frame(dataset: Dataset, keyword: str) -> int:
    """Of a native frame, in its tightest layout."""
    rows, columns, samples, allocated = (
        integer(dataset.get(name)) or 0 for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    samples = samples or 1
    if samples == 3 and str(dataset.get("PhotometricInterpretation")).strip() in _HALF_COLOUR:
        samples = 2  # PS3.3 section C.7.6.3.1.2: two pixels share their colour
    return rows * columns * samples * _FLOAT_BITS.get(keyword, allocated)
