"""Stored grey values to display values: padding, Modality transform, VOI transform, polarity.

PS3.4 section N.2 gives the order. A straight line from stored to display value, the usual case, is one
subtraction and one product in float32; what is not straight is worked out once for each stored value that the frame
can have, where those are fewer than its pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from shared.errors import UndecodablePixelsError
from shared.pixels.attributes import FrameAttributes
from shared.pixels.lut import Values, apply_lut
from shared.pixels.window import Ramp, Sigmoid, Voi, apply_ramp, apply_sigmoid, fallback_voi, named_voi

_TRANSFORMATION = "PixelValueTransformationSequence"


def display_values(stored: NDArray[Any], attributes: FrameAttributes) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """A grey frame as it is displayed.

    Args:
        stored: (H, W) stored values, integers or floats.
        attributes: The frame's.

    Returns:
        (H, W) float32 in [0, 1], MONOCHROME1 inverted; padding is 0 (black). And notes.

    Raises:
        ValueError: a lookup table is not valid.
        UndecodablePixelsError: values so large that they cannot be shown.
    """
    padded = _padding(stored, attributes.dataset)
    if stored.dtype.kind == "f":
        stored = np.nan_to_num(stored, nan=0.0, posinf=0.0, neginf=0.0)
    voi, notes = named_voi(attributes)
    luts = attributes.dataset.get("ModalityLUTSequence")
    if luts:
        shown, more = _bent(stored, padded, luts[0], voi, attributes)
    else:
        shown, more = _straight(stored, padded, voi, attributes)
    if shown.size and np.isnan(shown.min()):  # a window or a sum is beyond float64
        raise UndecodablePixelsError("the frame's values are beyond what can be computed")
    shape = attributes.text("PresentationLUTShape")
    is_dark_high = attributes.dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    if is_dark_high or shape == "INVERSE":  # PS3.3 section C.11.6.1.2: they mean the same, not each other's inverse
        np.subtract(np.float32(1.0), shown, out=shown)
        more += () if is_dark_high else ("presentation-lut-inverse",)
    if padded is not None:
        shown[padded] = 0.0
    return shown, notes + more


def _straight(
    stored: NDArray[Any], padded: NDArray[np.bool_] | None, voi: Voi | None, attributes: FrameAttributes
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """With a rescale or none."""
    slope, intercept = (attributes.number(_TRANSFORMATION, name) for name in ("RescaleSlope", "RescaleIntercept"))
    is_rescaled = slope is not None or intercept is not None
    slope, intercept = slope or 1.0, intercept or 0.0
    more: tuple[str, ...] = ()
    if voi is None:
        ramp, note = fallback_voi(stored, padded, attributes, is_rescaled=is_rescaled)
        more = (note,)
        if ramp is None:
            return np.zeros(stored.shape, np.float32), more
        if note.endswith("percentile"):  # of stored values; a falling rescale turns black and white round
            ends = sorted((slope * ramp.low + intercept, slope * ramp.high + intercept))
            ramp = Ramp(*ends)
        voi = ramp
    if isinstance(voi, Ramp):
        return apply_ramp(stored, voi, slope, intercept), more
    curve = voi
    return _by_value(stored, lambda values: _curved(values * slope + intercept, curve, attributes)), more


def _bent(
    stored: NDArray[Any],
    padded: NDArray[np.bool_] | None,
    modality: Dataset,
    voi: Voi | None,
    attributes: FrameAttributes,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """With a Modality LUT."""

    def looked_up(values: Values) -> Values:
        return apply_lut(values, modality, is_little_endian=attributes.is_little_endian)[0]

    if voi is not None:
        curve = voi
        return _by_value(stored, lambda values: _curved(looked_up(values), curve, attributes)), ()
    values = looked_up(stored.astype(np.float64))
    ramp, note = fallback_voi(values, padded, attributes, is_rescaled=True)
    return np.zeros(stored.shape, np.float32) if ramp is None else apply_ramp(values, ramp), (note,)


def _curved(values: Values, voi: Voi, attributes: FrameAttributes) -> Values:
    if isinstance(voi, Ramp):
        return apply_ramp(values, voi)
    if isinstance(voi, Sigmoid):
        return apply_sigmoid(values, voi)
    looked_up, largest = apply_lut(values, voi, is_little_endian=attributes.is_little_endian)
    shown: Values = np.clip(looked_up / largest, 0.0, 1.0)
    return shown


def _by_value(stored: NDArray[Any], function: Any) -> NDArray[np.float32]:
    """`function` of float64 values: of each pixel, or of each possible value where those are fewer."""
    if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and stored.size:
        least, most = int(stored.min()), int(stored.max())
        if most - least < stored.size:
            table = np.asarray(function(np.arange(least, most + 1, dtype=np.float64)), np.float32)
            return np.asarray(table[np.subtract(stored, least, dtype=np.intp)], np.float32)
    return np.asarray(function(stored.astype(np.float64)), np.float32)


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Where the frame is padding, by stored values: PS3.3 section C.7.5.1.1.2. None: nowhere."""
    is_float = stored.dtype.kind == "f"
    prefix = "Float" if is_float else ""
    value, limit = dataset.get(f"{prefix}PixelPaddingValue"), dataset.get(f"{prefix}PixelPaddingRangeLimit")
    if not is_float:
        value, limit = _as_stored(value, stored.dtype), _as_stored(limit, stored.dtype)
    padded: NDArray[np.bool_] | None = ~np.isfinite(stored) if is_float else None
    if value is not None:
        low, high = sorted((value, value if limit is None else limit))
        within = stored == low if low == high else (stored >= low) & (stored <= high)
        padded = within if padded is None else padded | within
    return padded if padded is not None and padded.any() else None


def _as_stored(value: Any, dtype: np.dtype[Any]) -> int | None:
    """A padding value in the signedness of the pixels; writers mix up US and SS."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    bits = 8 * dtype.itemsize
    number &= (1 << bits) - 1
    return number - (1 << bits) if dtype.kind == "i" and number >= 1 << (bits - 1) else number
