"""The attributes of one frame: its functional groups, then the shared ones, then the data set (PS3.3 C.7.6.16)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

_EMPTY = (None, "")


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
            if items and (value := items[0].get(keyword)) not in _EMPTY:
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

    def count(self, macro: str, keyword: str) -> int:
        """How many values `keyword` has."""
        value = self.get(macro, keyword)
        if value is None:
            return 0
        return 1 if isinstance(value, (int, float, str, bytes)) else len(value)

    def text(self, keyword: str) -> str:
        """A code string of the data set, in capitals; empty if it is missing."""
        return str(self.dataset.get(keyword) or "").strip().upper()

    @property
    def pixel_aspect(self) -> float:
        """Height of a pixel divided by its width, 1 where unknown or beyond belief."""
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):  # all vertical first
            value = self.get("PixelMeasuresSequence", keyword)
            try:
                vertical, horizontal = (float(part) for part in value)
                aspect = vertical / horizontal
            except (TypeError, ValueError, ZeroDivisionError):
                continue
            if math.isfinite(aspect) and 0.05 <= aspect <= 20.0:
                return aspect
        return 1.0

    @property
    def is_little_endian(self) -> bool:
        """The byte order of the data set's words."""
        return self.dataset.original_encoding[1] is not False
