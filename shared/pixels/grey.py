"""Stored grey values to display values: padding, Modality transform, VOI transform, MONOCHROME1.

PS3.4 section N.2 gives the order. Attributes are looked up in the frame's functional groups, then in the
shared ones, then in the data set itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import DataElement

Values = NDArray[np.floating[Any]]

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


@dataclass(frozen=True, slots=True)
class FrameAttributes:
    """The attributes of one frame of a data set."""

    dataset: Dataset
    groups: tuple[Dataset, ...]

    @classmethod
    def of(cls, dataset: Dataset, number: int) -> FrameAttributes:
        """Those of frame `number`, from 1."""
        groups = []
        per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if number <= len(per_frame):
            groups.append(per_frame[number - 1])
        groups.extend((dataset.get("SharedFunctionalGroupsSequence") or [])[:1])
        return cls(dataset, tuple(groups))

    def get(self, macro: str, keyword: str) -> Any:
        """The value of `keyword`, of which functional group macro `macro` is the sequence; None if it is empty."""
        for group in self.groups:
            items = group.get(macro)
            if items and (value := items[0].get(keyword)) not in (None, ""):
                return value
        value = self.dataset.get(keyword)
        return None if value == "" else value

    def number(self, macro: str, keyword: str) -> float | None:
        """The first value of `keyword` as a finite number, else None."""
        value = self.get(macro, keyword)
        try:
            number = float(value if isinstance(value, (int, float, str)) else value[0])
        except (TypeError, ValueError, IndexError):
            return None
        return number if math.isfinite(number) else None


def display_values(stored: NDArray[Any], attributes: FrameAttributes) -> NDArray[np.float32]:
    """A grey frame as it is displayed.

    Args:
        stored: (H, W) stored values, integers or floats.
        attributes: The frame's.

    Returns:
        (H, W) float32 in [0, 1], MONOCHROME1 inverted; padding is 0 (black).

    Raises:
        ValueError: a lookup table is not valid.
    """
    dataset = attributes.dataset
    padded = _padding(stored, dataset)
    # 16-bit values are exact in float32; wider ones are not.
    values: Values = stored.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
    if stored.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    values, is_rescaled = _modality(values, attributes)
    shown = _voi(values, padded, is_rescaled=is_rescaled, attributes=attributes)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        shown = 1.0 - shown
    if padded is not None:
        shown[padded] = 0.0
    return shown.astype(np.float32, copy=False)


def apply_window(values: Values, center: float, width: float, function: str = "LINEAR") -> Values:
    """Window values to [0, 1]: PS3.3 sections C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2."""
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - center) / width, -80.0, 80.0)
        sigmoid: Values = 1.0 / (1.0 + np.exp(exponent))
        return sigmoid
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width <= 0:
        step: Values = (values > center).astype(values.dtype)
        return step
    ramp: Values = np.clip((values - center) / width + 0.5, 0.0, 1.0)
    return ramp


def apply_lut(values: Values, item: Dataset, *, is_little_endian: bool) -> tuple[Values, float]:
    """Look values up in a LUT item (PS3.3 section C.11.1.1.1); returns them and the largest value it can give.

    Raises:
        ValueError: the table is not valid.
    """
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    table = _table(item["LUTData"], entries or 1 << 16, bits, is_little_endian=is_little_endian)
    if first >= 1 << 15 and values.size and values.min() < 0:
        first -= 1 << 16  # signed values under a descriptor that was read as unsigned
    index = np.clip(np.rint(values - first), 0, len(table) - 1).astype(np.int64)
    return table[index].astype(values.dtype), float(2**bits - 1)


def _modality(values: Values, attributes: FrameAttributes) -> tuple[Values, bool]:
    """Apply the Modality LUT or the rescale; says whether there was one."""
    if items := attributes.dataset.get("ModalityLUTSequence"):
        return apply_lut(values, items[0], is_little_endian=_is_little_endian(attributes.dataset))[0], True
    slope = attributes.number("PixelValueTransformationSequence", "RescaleSlope")
    intercept = attributes.number("PixelValueTransformationSequence", "RescaleIntercept")
    if slope is None and intercept is None:
        return values, False
    return values * values.dtype.type(slope or 1.0) + values.dtype.type(intercept or 0.0), True


def _voi(values: Values, padded: NDArray[np.bool_] | None, *, is_rescaled: bool, attributes: FrameAttributes) -> Values:
    dataset = attributes.dataset
    items = dataset.get("VOILUTSequence")
    if items and items[0].get("LUTDescriptor") and items[0].get("LUTData") is not None:
        looked_up, largest = apply_lut(values, items[0], is_little_endian=_is_little_endian(dataset))
        shown: Values = np.clip(looked_up / largest, 0.0, 1.0)
        return shown
    center = attributes.number("FrameVOILUTSequence", "WindowCenter")
    width = attributes.number("FrameVOILUTSequence", "WindowWidth")
    function = str(attributes.get("FrameVOILUTSequence", "VOILUTFunction") or "LINEAR").strip().upper()
    if center is not None and width is not None and width >= (1.0 if function == "LINEAR" else 1e-9):
        return apply_window(values, center, width, function)
    return _fallback(values, padded, is_rescaled=is_rescaled, dataset=dataset)


def _fallback(values: Values, padded: NDArray[np.bool_] | None, *, is_rescaled: bool, dataset: Dataset) -> Values:
    """A window for an object that names none."""
    if str(dataset.get("Modality", "")).upper() == "CT" and is_rescaled:
        body_part = str(dataset.get("BodyPartExamined") or "").strip().upper()
        return apply_window(values, *CT_WINDOWS.get(body_part, CT_WINDOW))
    bits = int(dataset.get("BitsStored") or 0)
    if bits and bits <= 8 and not is_rescaled and not dataset.get("PixelRepresentation"):
        full_range: Values = np.clip(values / (2**bits - 1), 0.0, 1.0)
        return full_range
    seen = values if padded is None else values[~padded]
    if seen.size == 0:
        return np.zeros_like(values)
    low, high = (float(value) for value in np.percentile(seen, PERCENTILES))
    if high <= low:  # nearly all values are the same
        low, high = float(seen.min()), float(seen.max())
    if high <= low:
        return np.zeros_like(values)
    return apply_window(values, (low + high) / 2, high - low, "LINEAR_EXACT")


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Where the frame is padding, by stored values: PS3.3 section C.7.5.1.1.2. None: nowhere."""
    padded: NDArray[np.bool_]
    if stored.dtype.kind == "f":
        padded = ~np.isfinite(stored)
        value, limit = dataset.get("FloatPixelPaddingValue"), dataset.get("FloatPixelPaddingRangeLimit")
    else:
        padded = np.zeros(stored.shape, np.bool_)
        value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
        value, limit = _as_stored(value, stored.dtype), _as_stored(limit, stored.dtype)
    if value is not None:
        low, high = sorted((value, value if limit is None else limit))
        padded |= (stored >= low) & (stored <= high)
    return padded if padded.any() else None


def _as_stored(value: Any, dtype: np.dtype[Any]) -> int | None:
    """A padding value in the signedness of the pixels; writers mix up US and SS."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    bits = 8 * dtype.itemsize
    number &= (1 << bits) - 1
    return number - (1 << bits) if dtype.kind == "i" and number >= 1 << (bits - 1) else number


def _table(element: DataElement, entries: int, bits: int, *, is_little_endian: bool) -> NDArray[np.int64]:
    value = element.value
    if isinstance(value, bytes):  # OW
        order = "<" if is_little_endian else ">"
        dtype = np.dtype("u1") if bits <= 8 and len(value) < 2 * entries else np.dtype(f"{order}u2")
        table = np.frombuffer(value[: len(value) // dtype.itemsize * dtype.itemsize], dtype)
    else:
        table = np.atleast_1d(np.asarray(value, np.int64))
    if not 1 <= bits <= 16 or len(table) < entries:
        raise ValueError(f"a lookup table of {len(table)} entries with {bits} bits, where {entries} are declared")
    return table[:entries].astype(np.int64)


def _is_little_endian(dataset: Dataset) -> bool:
    return dataset.original_encoding[1] is not False
