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
    SET_ASIDE = "set-aside"
    DROPPED = "dropped"
    REFUSED = "refused"
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
        # Kept durably beside the first object of its UID, for a person to look at.
        Outcome.SET_ASIDE: 0x0000,
        Outcome.DROPPED: 0x0000,
        Outcome.REFUSED: 0x0124,  # not authorized, unless the rule says otherwise
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
    rule_status: int | None = None

    @property
    def status(self) -> int:
        """The DIMSE status."""
        return STATUS[self.outcome] if self.rule_status is None else self.rule_status


class RefusedObjectError(Exception):
    """An object that will not be stored."""

    def __init__(self, outcome: Outcome, comment: str) -> None:
        super().__init__(comment)
        self.answer = Answer(outcome, comment)
