"""Deterministic identifiers, so that doing something twice leaves one result."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID, uuid5

from pydantic import StringConstraints

NAMESPACE: Final = UUID("6b1f0a52-9e0c-5d0c-8f9e-53494d494c53")

# PS3.5 section 9.1: at most 64 characters, components of digits, no leading zeros. Real senders
# break the leading-zero rule, so it is not enforced: what counts is that a UID is safe in a path.
UID_PATTERN: Final = r"^[0-9]+(\.[0-9]+)*$"
Uid = Annotated[str, StringConstraints(pattern=UID_PATTERN, max_length=64)]

_UID = re.compile(UID_PATTERN)


def is_valid_uid(value: str) -> bool:
    """Whether `value` is a DICOM UID that may be used as a path component."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def event_id(event_type: str, *parts: str | int) -> UUID:
    """The id of an event: the same facts give the same id, so a repeat is recognised."""
    return uuid5(NAMESPACE, "|".join((event_type, *map(str, parts))))


def point_id(backbone_id: str, sop_instance_uid: str, frame_number: int) -> UUID:
    """The id of one frame's point in the vector index. `frame_number` counts from 1."""
    return uuid5(NAMESPACE, f"{backbone_id}|{sop_instance_uid}|{frame_number}")


def region_id(frame_id: UUID, cell: int) -> UUID:
    """The id of one cell of a frame; `cell` counts from 0, row by row."""
    return uuid5(frame_id, f"region|{cell}")


def mean_id(backbone_id: str, instance_uid: str) -> UUID:
    """The id of the point that stands for a whole series or study, by its Instance UID."""
    return uuid5(NAMESPACE, f"{backbone_id}|{instance_uid}")
