"""Colour samples to RGB in [0, 1]: PS3.3 section C.7.6.3.1.2."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import UndecodablePixelsError
from shared.pixels.image_pixel import RGB_NAMES, YBR_FULL_NAMES, YBR_PARTIAL_NAMES, ImagePixel

# Columns: Y, Cb, Cr; rows: R, G, B. The inverse of the matrices in PS3.3 section C.7.6.3.1.2, as ITU-R BT.601 has it.
_FROM_FULL: Final = np.array([[1, 0, 1.402], [1, -0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587], [1, 1.772, 0]])
# Y takes 16 to 235, Cb and Cr 16 to 240 of 8 bits.
_FROM_PARTIAL: Final = _FROM_FULL * (255 / np.array([219.0, 224.0, 224.0]))


def to_rgb(samples: NDArray[Any], photometric: str, image: ImagePixel) -> NDArray[np.float32]:
    """Colour samples as RGB.

    Args:
        samples: (H, W, 3) stored values.
        photometric: Their colour space, as the decoder left it.
        image: For Bits Stored.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        UndecodablePixelsError: not a colour space that can be converted.
    """
    largest = 2.0**image.stored - 1.0
    if photometric in RGB_NAMES:
        scaled = np.multiply(samples, np.float32(1.0 / largest), dtype=np.float32)
        return np.asarray(np.clip(scaled, 0.0, 1.0, out=scaled), np.float32)
    if photometric in YBR_FULL_NAMES:
        matrix, black = _FROM_FULL, 0.0
    elif photometric in YBR_PARTIAL_NAMES:
        matrix, black = _FROM_PARTIAL, 16.0 * 2.0 ** (image.stored - 8)
    else:
        raise UndecodablePixelsError("a colour space that cannot be converted")
    middle = 2.0 ** (image.stored - 1)
    centred = samples.astype(np.float32) - np.array([black, middle, middle], np.float32)
    rgb = centred.reshape(-1, 3) @ (matrix.T / largest).astype(np.float32)
    return np.clip(rgb, 0.0, 1.0, out=rgb).reshape(samples.shape)
