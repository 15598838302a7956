"""Which frames of a series are used: all, every k-th, evenly up to N, or those with a tag's value.

frames: {policy: evenly, max: 64}                              # the default
frames: {policy: every, every: 3}
frames: {policy: tag, tag: ImageType, value: M_SE, max: 32}    # b-values, echoes, phases, ...
frames: {policy: all}

Frames count in spatial order, over the objects of one series. `max` with another policy than `evenly` thins what
the policy chose, evenly. Evenly keeps both ends: the series' extent is covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

DEFAULT_MAX: Final = 64


class FramesPolicy(BaseModel):
    """A frozen choice of frames; a misspelled name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    policy: Literal["all", "every", "evenly", "tag"] = "evenly"
    every: PositiveInt | None = Field(None, description="With `every`: the step; the first frame is used.")
    max: PositiveInt | None = Field(None, description="Most frames of a series; with `evenly` 64 unless set.")
    tag: str | None = Field(None, pattern=r"^[A-Z][A-Za-z0-9]{1,63}$", description="With `tag`: a DICOM keyword.")
    value: str | None = Field(None, min_length=1, description="With `tag`: the value, or one of several.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.policy == "every") != (self.every is not None):
            raise ValueError("`every` belongs to the policy `every`")
        if (self.policy == "tag") != (self.tag is not None) or (self.tag is None) != (self.value is None):
            raise ValueError("`tag` and `value` belong to the policy `tag`")
        return self

    @property
    def most(self) -> int | None:
        """Most frames of a series; None: no limit."""
        return self.max or (DEFAULT_MAX if self.policy == "evenly" else None)

    def choose(self, matches: Sequence[bool]) -> list[int]:
        """Indices of the chosen ones of N frames, ascending.

        Args:
            matches: N times whether the frame has the tag's value; read by the policy `tag` only.
        """
        if self.policy == "every":
            chosen = list(range(0, len(matches), self.every or 1))
        elif self.policy == "tag":
            chosen = [index for index, match in enumerate(matches) if match]
        else:
            chosen = list(range(len(matches)))
        return chosen if self.most is None else [chosen[at] for at in evenly(len(chosen), self.most)]


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices below `count`, evenly spread; with two or more, both ends are among them."""
    if count <= limit:
        return list(range(count))
    if limit == 1:
        return [count // 2]
    return [int(index) for index in np.rint(np.linspace(0, count - 1, limit))]
