"""The studies that a request asked for or was given. Routes and steps note them; `Audited` reads them."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Touched:
    """What is known of a study that a request touched."""

    pseudonyms: tuple[str, ...] = ()
    was_asked_for: bool = False


Trail = dict[str, Touched]
"""By Study Instance UID, in the order of their first mention."""

TRAIL: Final[ContextVar[Trail | None]] = ContextVar("trail", default=None)


def asked_for(study_instance_uid: str, pseudonyms: Iterable[str] = ()) -> None:
    """The request is about this study. The pseudonyms are its patient's; several if it mixes patients."""
    _note(study_instance_uid, tuple(pseudonyms), was_asked_for=True)


def given(study_instance_uids: Iterable[str]) -> None:
    """The answer tells of these studies."""
    for uid in study_instance_uids:
        _note(uid, (), was_asked_for=False)


def _note(uid: str, pseudonyms: tuple[str, ...], *, was_asked_for: bool) -> None:
    trail = TRAIL.get()
    if trail is not None:
        before = trail.get(uid, Touched())
        trail[uid] = Touched(pseudonyms or before.pseudonyms, was_asked_for or before.was_asked_for)
