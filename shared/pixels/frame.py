"""One decoded frame, ready for display or for the model's transform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame after the Modality and VOI transforms, MONOCHROME1 already inverted.

    Attributes:
        pixels: float32 in [0, 1], (H, W) for grey or (H, W, 3) for RGB.
        number: Its frame number within the SOP instance, from 1.
        pixel_aspect: Height of a pixel divided by its width.
        notes: Short codes of what the reader chose or overlooked (docs/pixels.md); never an element's text.
    """

    pixels: NDArray[np.float32]
    number: int
    pixel_aspect: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameError:
    """A frame that could not be read, where the rest of its object may be.

    Attributes:
        number: Its frame number within the SOP instance, from 1.
        reason: The class of the error: UndecodablePixelsError or OversizedPixelsError.
        message: The error's own text.
    """

    number: int
    reason: str
    message: str
