"""How a C-STORE request is answered: PS3.4 table B.2-1 and PS3.7 annex C."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Outcome(StrEnum):
    """What became of an object."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    MISMATCH = "mismatch"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    NO_SPACE = "no-space"
    FAILED = "failed"


STATUS: Final = MappingProxyType(
    {
        Outcome.STORED: 0x0000,
        Outcome.DUPLICATE: 0x0000,
        Outcome.CONFLICT: 0x0111,  # duplicate SOP instance
        Outcome.MISMATCH: 0xA900,  # data set does not match SOP class
        Outcome.MALFORMED: 0xC000,  # cannot understand
        Outcome.TOO_LARGE: 0xA700,  # out of resources
        Outcome.NO_SPACE: 0xA700,
        Outcome.FAILED: 0x0110,  # processing failure
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome with an Error Comment, which never quotes the data set."""

    outcome: Outcome
    comment: str = ""

    @property
    def status(self) -> int:
        """The DIMSE status."""
        return STATUS[self.outcome]


class RefusedObjectError(Exception):
    """An object that will not be stored."""

    def __init__(self, outcome: Outcome, comment: str) -> None:
        super().__init__(comment)
        self.answer = Answer(outcome, comment)
