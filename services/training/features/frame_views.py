"""What is kept of a frame beside its features: a thumbnail, a hash of its pixels, what a mask covers of its patches."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.pixels import Frame
from shared.vision.transform import letterboxed

Floats32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

THUMBNAIL_PX: Final = 32
_FINER: Final = 8  # samples along a patch's side when a mask is laid over it
_LEAST_COVER: Final = 0.01


def thumbnail(frame: Frame) -> Floats32:
    """(32, 32, 3) in [0, 1]: the whole frame, its aspect given up.

    By a triangle filter: it treats both sides alike, so that the thumbnail of a mirrored frame is the mirrored one.
    """
    pixels = frame.pixels if frame.pixels.ndim == 3 else frame.pixels[..., None]
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[..., channel], np.float32)).resize(
                (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR
            ),
            np.float32,
        )
        for channel in range(pixels.shape[2])
    ]
    return np.stack(channels * (3 // len(channels)), axis=-1)


def coverage_of(frame: Frame, mask: Mask, side: int) -> Floats32:
    """(side * side,) share of each patch of the model's input that a mask (H, W) of `frame` covers."""
    square = letterboxed(Frame(mask.astype(np.float32), frame.number, frame.pixel_aspect), side * _FINER)
    shares: Floats32 = square.reshape(side, _FINER, side, _FINER).mean(axis=(1, 3)).reshape(-1)
    shares[shares < _LEAST_COVER] = 0  # what the resampling's kernel spills
    return shares


def pixel_hash(frame: Frame) -> str:
    """sha256 of a frame's decoded pixels and their shape."""
    digest = hashlib.sha256(f"{frame.pixels.shape}".encode())
    digest.update(np.ascontiguousarray(frame.pixels, np.float32).tobytes())
    return digest.hexdigest()
