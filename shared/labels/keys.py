"""Archive keys of labels, and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from typing import Final
from uuid import UUID

from shared.ids import UID_PATTERN
from shared.labels.record import LabelRecord

FOLDER: Final = "labels"

_UID: Final = UID_PATTERN.strip("^$")
_KEY: Final = re.compile(
    rf"{FOLDER}/(?P<study>{_UID})/(?P<task>[a-z0-9-]{{1,64}})/(?P<target>study|[a-z]+-[0-9.]+(?:-[0-9]+)?)/"
    r"(?P<sequence>[0-9]{8})-[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-(?P<id>[0-9a-f-]{36})\.json"
)


@dataclass(frozen=True, slots=True)
class LabelKey:
    """What a key says of its record."""

    key: str
    study: str
    task: str
    target: str
    sequence: int
    label_id: UUID

    @property
    def place(self) -> str:
        """Study, task and target: every record of one place has it. Places sort as their keys do."""
        return place(self.study, self.task, self.target)

    @classmethod
    def parse(cls, key: str) -> LabelKey | None:
        """The parts of `key`; None if it is not of a label."""
        found = _KEY.fullmatch(key)
        if found is None:
            return None
        try:
            label_id = UUID(found["id"])
        except ValueError:
            return None
        return cls(key, found["study"], found["task"], found["target"], int(found["sequence"]), label_id)


def place(study: str, task: str, target: str) -> str:
    """See `LabelKey.place`."""
    return f"{study}/{task}/{target}/"


def label_key(record: LabelRecord) -> str:
    """Where `record` lies. Within a folder the names sort by sequence, then by time: the last one counts."""
    moment = record.recorded_at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    where = place(record.study_instance_uid, record.task, record.target.name)
    return f"{FOLDER}/{where}{record.sequence:08d}-{moment}-{record.label_id}.json"
