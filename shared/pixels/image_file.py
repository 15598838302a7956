"""PNG and JPEG files, as people upload them, to a frame."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shared.errors import NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.pixels.frame import Frame
from shared.pixels.limits import PixelLimits
from shared.pixels.quiet import quiet

_MONO_MODES = {"1": 1.0, "L": 255.0, "LA": 255.0, "I;16": 65535.0, "I;16B": 65535.0, "I": 65535.0, "F": 1.0}


def read_image(data: bytes, *, limits: PixelLimits) -> Frame:
    """The image in a PNG or JPEG file; of an animation the first. Transparent pixels are laid on black.

    Raises:
        NotAnImageError: the bytes are neither.
        OversizedPixelsError: a limit is exceeded; nothing was decoded.
        UndecodablePixelsError: the file is damaged.
    """
    with quiet():  # Pillow's own warning about large images: our limits decide
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                width, height = image.size
                limits.check(rows=height, columns=width, bytes_per_pixel=12)
                image.load()
                return Frame(_values(image), 1)
        except UnidentifiedImageError as error:
            raise NotAnImageError("neither a PNG nor a JPEG file") from error
        except Image.DecompressionBombError as error:
            raise OversizedPixelsError("the picture has too many pixels") from error
        # Pillow's format plugins raise these on damaged files.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
            raise UndecodablePixelsError(f"the picture is damaged: {type(error).__name__}") from None


def _values(image: Image.Image) -> NDArray[np.float32]:
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    if image.mode in _MONO_MODES and not has_alpha:
        scale = _MONO_MODES[image.mode]
        grey: NDArray[np.float32] = np.clip(np.asarray(image, np.float32) / scale, 0.0, 1.0)
        return grey
    if has_alpha:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255.0
        colour: NDArray[np.float32] = rgba[..., :3] * rgba[..., 3:]
    else:
        colour = np.asarray(image.convert("RGB"), np.float32) / 255.0
    if (colour[..., :1] == colour).all():
        return np.ascontiguousarray(colour[..., 0])  # a grey picture saved in colour
    return colour
