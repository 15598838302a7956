"""The VOI transform: the object's own LUT or window, else a window by modality: PS3.3 section C.11.2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from shared.pixels.attributes import FrameAttributes
from shared.pixels.lut import Values

CT_WINDOWS: Final[Mapping[str, tuple[float, float]]] = {
    "HEAD": (40.0, 80.0),
    "BRAIN": (40.0, 80.0),
    "SKULL": (40.0, 80.0),
    "LUNG": (-600.0, 1500.0),
}
"""Center and width in HU by Body Part Examined, where the object names none."""
CT_WINDOW: Final = (40.0, 400.0)
"""Of every other body part: soft tissue."""
PERCENTILES: Final = (1.0, 99.0)
"""Of the frame's unpadded values: black and white where nothing else is known."""
_MACRO = "FrameVOILUTSequence"
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Ramp:
    """Black up to `low`, white from `high`, a straight line between; where they are equal, white above."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """PS3.3 section C.11.2.1.3.1."""

    center: float
    width: float


Voi = Ramp | Sigmoid | Dataset
"""A window, or the item of a VOI LUT."""


def named_voi(attributes: FrameAttributes) -> tuple[Voi | None, tuple[str, ...]]:
    """The first VOI LUT of the frame, else its first window, else None; and notes of what was passed over."""
    luts = attributes.get(_MACRO, "VOILUTSequence") or ()
    if luts and luts[0].get("LUTDescriptor") and luts[0].get("LUTData") is not None:
        return luts[0], (f"first-of-{len(luts)}-voi-luts",) if len(luts) > 1 else ()
    center, width = attributes.number(_MACRO, "WindowCenter"), attributes.number(_MACRO, "WindowWidth")
    if center is None or width is None:
        return None, ()
    function = str(attributes.get(_MACRO, "VOILUTFunction") or "LINEAR").strip().upper()
    if width < (1.0 if function == "LINEAR" else 1e-9):
        return None, ("useless-window",)
    count = attributes.count(_MACRO, "WindowCenter")
    notes = (f"first-of-{count}-windows",) if count > 1 else ()
    return window(center, width, function), notes


def window(center: float, width: float, function: str = "LINEAR") -> Ramp | Sigmoid:
    """A window by its function: LINEAR (PS3.3 section C.11.2.1.2.1), LINEAR_EXACT (C.11.2.1.3.2) or SIGMOID."""
    if function == "SIGMOID":
        return Sigmoid(center, width)
    if function == "LINEAR_EXACT":
        return Ramp(center - width / 2, center + width / 2)
    return Ramp(center - width / 2, center + width / 2 - 1.0)


def fallback_voi(
    values: NDArray[Any], padded: NDArray[np.bool_] | None, attributes: FrameAttributes, *, is_rescaled: bool
) -> tuple[Ramp | None, str]:
    """A window for a frame that names none, and the note that says which.

    Args:
        values: (H, W), in any units that `percentiles` may be taken of.
        padded: (H, W), true where the frame is padding; None: nowhere.
        attributes: The frame's.
        is_rescaled: Whether it has a Modality transform: a CT's values are HU then.

    Returns:
        A ramp in HU, or in the units of `values`; None where all values are the same.
    """
    modality = attributes.text("Modality")
    if modality == "CT" and is_rescaled:
        body_part = attributes.text("BodyPartExamined")
        note = f"fallback-window-ct-{body_part.lower() if body_part in CT_WINDOWS else 'soft-tissue'}"
        center, width = CT_WINDOWS.get(body_part, CT_WINDOW)
        return Ramp(center - width / 2, center + width / 2 - 1.0), note
    bits = int(attributes.dataset.get("BitsStored") or 0)
    if bits and bits <= 8 and not is_rescaled and not attributes.dataset.get("PixelRepresentation"):
        return Ramp(0.0, 2.0**bits - 1), "fallback-full-range"
    note = "fallback-window-mr-percentile" if modality == "MR" else "fallback-window-percentile"
    seen = values.ravel() if padded is None else values[~padded]
    if seen.size == 0:
        return None, note
    low, high = percentiles(seen)
    if high <= low:  # nearly all values are the same
        low, high = float(seen.min()), float(seen.max())
    return Ramp(low, high) if high > low else None, note


def percentiles(values: NDArray[Any]) -> tuple[float, float]:
    """`PERCENTILES` of values as numpy.percentile gives them; of 16-bit integers by counting, 4 times faster."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
        return low, high
    least = int(values.min())
    below = np.cumsum(np.bincount(np.subtract(values, least, dtype=np.intp)))
    places = np.array(PERCENTILES) / 100.0 * (values.size - 1)
    floors = np.floor(places)
    lower = np.searchsorted(below, floors, side="right")
    upper = np.searchsorted(below, np.minimum(floors + 1, values.size - 1), side="right")
    low, high = (float(value) for value in lower + (places - floors) * (upper - lower) + least)
    return low, high


def apply_sigmoid(values: Values, sigmoid: Sigmoid) -> Values:
    """Values to [0, 1]."""
    exponent = np.clip(-4.0 * (values - sigmoid.center) / sigmoid.width, -80.0, 80.0)
    shown: Values = 1.0 / (1.0 + np.exp(exponent))
    return shown


def apply_ramp(values: NDArray[Any], ramp: Ramp, slope: float = 1.0, intercept: float = 0.0) -> NDArray[np.float32]:
    """Stored values to [0, 1] by a ramp in units of slope x value + intercept: one subtraction and one product."""
    low, high = (ramp.low - intercept) / slope, (ramp.high - intercept) / slope
    # 16-bit values are exact in float32; wider ones are not.
    is_exact = values.dtype.itemsize <= 2 and abs(low) < 1 << 24
    work = np.float32 if is_exact else np.float64
    if high == low or abs(high - low) < _TINY:
        above = values > low if slope > 0 else values < low
        return np.asarray(above, np.float32)
    shown: Values = values.astype(work)  # converting on the way, numpy subtracts half as fast
    shown -= work(low)
    shown *= work(1.0 / (high - low))
    clipped: NDArray[np.float32] = np.clip(shown, 0.0, 1.0, out=shown).astype(np.float32, copy=False)
    return clipped
