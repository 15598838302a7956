"""Frame to model input: aspect-preserving letterbox on black, ImageNet mean and standard deviation.

The resampling is antialiased bicubic in float32, as DINOv2's published preprocessing uses; 12- and 16-bit images
are never cut to 8 bits on the way. Models take the square in [0, 1], one channel where it is grey; the fast forward
has mean and standard deviation in its weights. `to_model_input` is the same for a Hugging Face model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.pixels.frame import Frame
from shared.vision.resample import resized

TRANSFORM_VERSION: Final = "t2"
"""Part of every backbone id: raise it when `shared.pixels` or this module changes what the model sees."""

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

_MEAN: Final = np.array(IMAGENET_MEAN, np.float32)[:, None, None]
_STD: Final = np.array(IMAGENET_STD, np.float32)[:, None, None]
_GREY_TOLERANCE: Final = 2e-6  # what normalising and going back rounds, with room


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where the frame's content lies in the square model input, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def checked(self, size_px: int) -> Letterbox:
        """Itself.

        Raises:
            ValueError: it is empty or reaches beyond a `size_px` square.
        """
        for start, length in ((self.top, self.height), (self.left, self.width)):
            if start < 0 or length < 1 or start + length > size_px:
                raise ValueError(f"{self} does not lie in a square of {size_px} px")
        return self


def letterbox_box(height: int, width: int, pixel_aspect: float, size_px: int) -> Letterbox:
    """The rectangle that a (height, width) frame fills in a `size_px` square.

    Args:
        height: Rows of the frame.
        width: Columns of the frame.
        pixel_aspect: Height of a pixel divided by its width.
        size_px: Side of the square.
    """
    physical_height = height * pixel_aspect
    scale = size_px / max(physical_height, width)
    content_height = min(size_px, max(1, round(physical_height * scale)))
    content_width = min(size_px, max(1, round(width * scale)))
    return Letterbox((size_px - content_height) // 2, (size_px - content_width) // 2, content_height, content_width)


def letterboxed(frame: Frame, size_px: int) -> NDArray[np.float32]:
    """The frame resampled into a black `size_px` square: (S, S) for grey, (S, S, 3) for RGB, in [0, 1]."""
    pixels = frame.pixels
    box = letterbox_box(pixels.shape[0], pixels.shape[1], frame.pixel_aspect, size_px)
    content = resized(pixels, box.height, box.width)
    np.clip(content, 0.0, 1.0, out=content)  # the cubic kernel overshoots at edges
    if box.height == box.width == size_px:
        return content
    square = np.zeros((size_px, size_px, *pixels.shape[2:]), np.float32)
    square[box.top : box.top + box.height, box.left : box.left + box.width] = content
    return square


def to_model_input(frame: Frame, size_px: int) -> NDArray[np.float32]:
    """The model's input for one frame: (3, S, S) float32, normalised; grey is repeated to three channels."""
    square = letterboxed(frame, size_px)
    channels = square[None] if square.ndim == 2 else square.transpose(2, 0, 1)
    normalised: NDArray[np.float32] = (channels - _MEAN) / _STD
    return normalised


def squares_of_inputs(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Back from (N, 3, S, S) model inputs to squares as `letterboxed` gives them, to rounding."""
    squares = []
    for image in pixels * _STD + _MEAN:
        is_grey = max(np.abs(image[0] - image[1]).max(), np.abs(image[0] - image[2]).max()) < _GREY_TOLERANCE
        squares.append(image[0] if is_grey else np.ascontiguousarray(image.transpose(1, 2, 0)))
    return squares
