"""Which frames of an object carry a given value of an attribute, wherever the object keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from shared.pixels.header import guarded, parse
from shared.pixels.limits import PixelLimits


def tag_matches(data: bytes, keyword: str, value: str, *, limits: PixelLimits) -> tuple[bool, ...]:
    """For each frame of the image in DICOM Part-10 bytes: whether its attribute `keyword` is or contains `value`.

    It is looked for in the frame's functional groups, in the shared ones, then in the data set (PS3.3 section
    C.7.6.16); the first place that has it counts. Text is compared without regard to case, numbers as numbers.

    Raises:
        NotAnImageError, OversizedPixelsError, UndecodablePixelsError: as `read_header`.
    """
    dataset, count = parse(data, limits)
    with guarded("header"):
        per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
        shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
        everywhere = next(_found((*_macros(shared), dataset), keyword), None)
        return tuple(
            _matches(next(_found(_macros(per_frame[index : index + 1]), keyword), everywhere), value)
            for index in range(count)
        )


def _macros(groups: list[Dataset]) -> tuple[Dataset, ...]:
    """The items of a functional group's macros."""
    return tuple(item for group in groups for element in group if element.VR == "SQ" for item in element.value)


def _found(places: tuple[Dataset, ...], keyword: str) -> Iterator[Any]:
    return (found for place in places if (found := place.get(keyword)) not in (None, ""))


def _matches(found: Any, value: str) -> bool:
    values = found if isinstance(found, (MultiValue, list, tuple)) else (found,)
    return any(_equal(str(one).strip(), value.strip()) for one in values if one is not None)


def _equal(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one.casefold() == other.casefold()
