"""What the journal knows of its durable objects without reading them, and how their files are named."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from services.listener.header import ObjectHeader

SUFFIX: Final = ".dcm"
# What is known of more objects than these is read back from their files when it is needed.
_REMEMBERED_OBJECTS: Final = 100_000
_NAME: Final = re.compile(r"([0-9.]{1,64})\.([0-9a-f]{64})\.((?:[0-9a-f]{2}){0,16})" + re.escape(SUFFIX))


@dataclass(frozen=True, slots=True)
class JournalObject:
    """One object in the journal and what its manifest entry needs."""

    header: ObjectHeader
    transfer_syntax_uid: str
    calling_ae_title: str
    size_bytes: int
    sha256: str


class Named(NamedTuple):
    """What an object's file name says beside its SOP Instance UID."""

    sha256: str
    calling_ae_title: str


def file_name(sop: str, named: Named) -> str:
    """<SOP Instance UID>.<SHA-256 of the file>.<calling AE title in hexadecimal>.dcm."""
    sender = named.calling_ae_title.encode("latin-1", errors="replace").hex()
    return f"{sop}.{named.sha256}.{sender}{SUFFIX}"


def parse_file_name(path: Path) -> tuple[str, Named] | None:
    """SOP Instance UID and the rest of what an object's file name says; None if it is no such name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    return match[1], Named(match[2], bytes.fromhex(match[3]).decode("latin-1"))


class KeptObjects:
    """The journal's objects by study and SOP Instance UID. Safe from any thread, never blocks.

    About half a kilobyte for each object, and as much again for the first 100,000 of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._named: dict[str, dict[str, Named]] = {}
        self._studies: dict[str, str] = {}
        self._objects: dict[str, dict[str, JournalObject]] = {}
        self._remembered = 0

    def add(self, study: str, sop: str, named: Named, entry: JournalObject | None = None) -> None:
        """An object is durable; `entry` is what is known of it."""
        with self._lock:
            self._named.setdefault(study, {})[sop] = named
            self._studies[sop] = study
            if entry is not None:
                self._remember(study, sop, entry)

    def remember(self, study: str, sop: str, named: Named, entry: JournalObject) -> None:
        """Spare reading the object back once more, if it is still kept."""
        with self._lock:
            if self._named.get(study, {}).get(sop) is named:
                self._remember(study, sop, entry)

    def remove(self, study: str, sop: str, named: Named) -> None:
        """The object is not in the journal any more. Another one that took its place meanwhile stays."""
        with self._lock:
            if self._named.get(study, {}).get(sop) is not named:
                return
            self._studies.pop(sop, None)
            of_study, objects = self._named[study], self._objects.get(study, {})
            del of_study[sop]
            if objects.pop(sop, None) is not None:
                self._remembered -= 1
            if not of_study:
                self._named.pop(study, None)
            if not objects:
                self._objects.pop(study, None)

    def forget(self, study: str) -> None:
        """What is known of this study's objects is not to be relied on."""
        with self._lock:
            self._remembered -= len(self._objects.pop(study, ()))

    def named(self, study: str, sop: str) -> Named | None:
        """What the object's name says; None if it is not kept."""
        with self._lock:
            return self._named.get(study, {}).get(sop)

    def entry(self, study: str, sop: str) -> JournalObject | None:
        """What is remembered of an object."""
        with self._lock:
            return self._objects.get(study, {}).get(sop)

    def of(self, study: str) -> dict[str, Named]:
        """The study's objects, by SOP Instance UID in its order."""
        with self._lock:
            return dict(sorted(self._named.get(study, {}).items()))

    def holds(self, study: str) -> bool:
        """Whether there is an object of this study."""
        with self._lock:
            return study in self._named

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self._studies)

    def study_of(self, sop: str) -> str | None:
        """The study of an object; None if it is not kept."""
        with self._lock:
            return self._studies.get(sop)

    def _remember(self, study: str, sop: str, entry: JournalObject) -> None:
        """The caller holds the lock."""
        objects = self._objects.setdefault(study, {})
        if sop in objects or self._remembered < _REMEMBERED_OBJECTS:
            self._remembered += sop not in objects
            objects[sop] = entry
