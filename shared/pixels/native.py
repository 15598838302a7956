"""Uncompressed frames, as views of the object's bytes wherever the layout allows: PS3.5 sections 8.1.1 and 8.2."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import UndecodablePixelsError
from shared.pixels.image_pixel import ImagePixel

_HALF_COLOUR = ("YBR_FULL_422", "YBR_PARTIAL_422")


def native_frame(
    data: memoryview, image: ImagePixel, number: int, *, is_little_endian: bool, is_word_swapped: bool = False
) -> NDArray[Any]:
    """Stored values of frame `number`, from 1.

    Args:
        data: The value of the pixel element.
        image: Its layout.
        number: Which frame.
        is_little_endian: The byte order of its words.
        is_word_swapped: 8-bit values in a big-endian element of VR OW, in which each pair of bytes is swapped.

    Returns:
        (H, W) or (H, W, 3), integers with unused bits removed and the sign extended, or floats; may be read-only.

    Raises:
        UndecodablePixelsError: the element ends before the frame does.
    """
    if image.allocated == 1:
        return _bits(data, image, number, is_word_swapped=is_word_swapped)
    kind = "f" if image.keyword != "PixelData" else "i" if image.is_signed else "u"
    dtype = np.dtype(f"{'<' if is_little_endian else '>'}{kind}{image.allocated // 8}")
    is_halved = image.photometric in _HALF_COLOUR and not _holds_all_samples(data, image, dtype)
    count = image.rows * image.columns * (2 if is_halved else image.samples)
    start = (number - 1) * count * dtype.itemsize
    if start + count * dtype.itemsize > len(data):
        raise UndecodablePixelsError("the pixel data ends before the frame does")
    if is_word_swapped and dtype.itemsize == 1:
        values = _swapped(data, start, count).view(dtype)
    else:
        values = np.frombuffer(data, dtype, count, start)
    if not dtype.isnative:
        values = values.astype(dtype.newbyteorder("="))
    if is_halved:
        return _unhalved(values, image)
    return used_bits(_shaped(values, image), image)


def used_bits(values: NDArray[Any], image: ImagePixel) -> NDArray[Any]:
    """Values without what lies in unused bits (overlays of old objects, or nothing), the sign extended."""
    bits = 8 * values.dtype.itemsize
    if values.dtype.kind == "f" or (image.stored == bits and image.high_bit == image.stored - 1):
        return values
    if image.high_bit == image.stored - 1 and _fits(values, image.stored):
        return values  # two looks are a fifth of the two shifts
    above = max(0, bits - 1 - image.high_bit)
    shifted: NDArray[Any] = np.right_shift(np.left_shift(values, above), bits - image.stored)
    return shifted


def _fits(values: NDArray[Any], stored: int) -> bool:
    """Whether the bits above `stored` are clear, or all say the sign."""
    if values.dtype.kind == "u":
        return bool(values.max(initial=0) < 1 << stored)
    return bool(values.max(initial=0) < 1 << (stored - 1) and values.min(initial=0) >= -(1 << (stored - 1)))


def _holds_all_samples(data: memoryview, image: ImagePixel, dtype: np.dtype[Any]) -> bool:
    """Some writers name a halved photometric interpretation for data that is not."""
    return len(data) >= image.rows * image.columns * 3 * image.frames * dtype.itemsize


def _shaped(values: NDArray[Any], image: ImagePixel) -> NDArray[Any]:
    if image.samples == 1:
        return values.reshape(image.rows, image.columns)
    if image.is_planar:
        return np.moveaxis(values.reshape(image.samples, image.rows, image.columns), 0, -1)
    return values.reshape(image.rows, image.columns, image.samples)


def _unhalved(values: NDArray[Any], image: ImagePixel) -> NDArray[Any]:
    """Y1 Y2 Cb Cr of each pair of pixels (PS3.3 section C.7.6.3.1.2) to three samples each."""
    if image.columns % 2:
        raise UndecodablePixelsError("an odd number of columns with halved colour")
    pairs = values.reshape(image.rows, image.columns // 2, 4)
    pixels = np.empty((image.rows, image.columns // 2, 2, 3), values.dtype)
    pixels[..., 0] = pairs[..., :2]
    pixels[..., 1:] = pairs[:, :, None, 2:]
    return pixels.reshape(image.rows, image.columns, 3)


def _bits(data: memoryview, image: ImagePixel, number: int, *, is_word_swapped: bool) -> NDArray[np.uint8]:
    """1-bit pixels: the first in the lowest bit, frames not aligned to bytes."""
    count = image.rows * image.columns * image.samples
    first = (number - 1) * count
    start, end = first // 8, -(-(first + count) // 8)
    if end > len(data):
        raise UndecodablePixelsError("the pixel data ends before the frame does")
    packed = (
        _swapped(data, start, end - start) if is_word_swapped else np.frombuffer(data, np.uint8, end - start, start)
    )
    values = np.unpackbits(packed, bitorder="little")[first - 8 * start :][:count]
    shaped: NDArray[np.uint8] = _shaped(values, image)
    return shaped


def _swapped(data: memoryview, start: int, count: int) -> NDArray[np.uint8]:
    """Bytes of an element whose pairs are swapped."""
    first, last = start // 2 * 2, min(len(data) // 2 * 2, -(-(start + count) // 2) * 2)
    words = np.frombuffer(data, np.uint16, (last - first) // 2, first)
    swapped = words.byteswap().view(np.uint8)[start - first :][:count]
    if len(swapped) < count:
        raise UndecodablePixelsError("the pixel data ends before the frame does")
    return swapped
