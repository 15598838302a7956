"""What stands where a mask removes the image, by name."""

from __future__ import annotations

from typing import Final, Literal

from shared.vision.transform import IMAGENET_MEAN, IMAGENET_STD

FillName = Literal["mean", "black"]

_RED, _GREEN, _BLUE = (-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))

FILLS: Final[dict[FillName, tuple[float, float, float]]] = {"mean": (0.0, 0.0, 0.0), "black": (_RED, _GREEN, _BLUE)}
"""Per channel, in normalised pixel units: mean is the mid-grey of the authors' code."""
