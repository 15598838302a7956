"""How far each study has been published: one small file a study, and a cache of those in use."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from shared.archive import fsync_folder
from shared.manifest import Sha256

_CACHED_STUDIES: Final = 64
_PART: Final = ".part-"


class Published(BaseModel):
    """How far a study has been published."""

    model_config = ConfigDict(frozen=True)

    revision: NonNegativeInt = 0
    objects: dict[str, Sha256] = {}
    """SOP Instance UID to the hash of the object's file."""


class PublishedStudies:
    """The files in `folder`, `<study>.json` each. All methods block and may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._states: OrderedDict[str, Published] = OrderedDict()

    def recover(self) -> None:
        """Sweep what a crash left half-written."""
        for temporary in self._folder.glob(f"{_PART}*"):
            temporary.unlink()

    def of(self, study: str) -> Published:
        """How far `study` has been published; revision 0 if it has not.

        Raises:
            OSError: the file cannot be read.
        """
        with self._lock:
            if (state := self._states.get(study)) is not None:
                self._states.move_to_end(study)
                return state
        try:
            state = Published.model_validate_json((self._folder / f"{study}.json").read_bytes())
        except FileNotFoundError:
            state = Published()
        with self._lock:
            # What was marked since the file was read is newer.
            if (newer := self._states.get(study)) is not None:
                return newer
            self._remember(study, state)
        return state

    def mark(self, study: str, revision: int, objects: Mapping[str, str]) -> None:
        """Note, durably, that `revision` is published and consists of `objects` (SOP UID to file hash).

        Raises:
            OSError: it could not be noted; what stood there still stands.
        """
        state = Published(revision=revision, objects=dict(objects))
        temporary = self._folder / f"{_PART}{next(self._numbers)}"
        with open(temporary, "wb") as file:
            file.write(state.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._folder / f"{study}.json")
        fsync_folder(self._folder)
        with self._lock:
            self._remember(study, state)

    def _remember(self, study: str, state: Published) -> None:
        """Cache `state`; the caller holds the lock."""
        self._states[study] = state
        self._states.move_to_end(study)
        while len(self._states) > _CACHED_STUDIES:
            self._states.popitem(last=False)
