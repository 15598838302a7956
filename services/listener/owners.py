"""Which study each published SOP Instance UID belongs to: a symbolic link each, `<xx>/<sop> -> <study>`."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owners:
    """The links below `folder`. They block, and are safe from any thread.

    A link is not fsynced: on a journalling file system it is ordered before what is made durable
    after it, and where a power cut takes it, only a UID used for two objects of two studies goes
    unnoticed.
    """

    folder: Path

    def of(self, sop: str) -> str | None:
        """The study that published this UID first; None if none has.

        Raises:
            OSError: that could not be found out.
        """
        try:
            return os.readlink(self._link(sop))  # noqa: PTH115 - on each object's way in
        except FileNotFoundError:
            return None

    def note(self, study: str, sops: Iterable[str]) -> None:
        """`study` publishes these UIDs; where another did before, that one stays.

        Raises:
            OSError: a link cannot be made.
        """
        for sop in sops:
            link = self._link(sop)
            try:
                os.symlink(study, link)  # noqa: PTH211
            except FileExistsError:
                continue
            except FileNotFoundError:
                os.makedirs(os.path.dirname(link), exist_ok=True)  # noqa: PTH103, PTH120
                os.symlink(study, link)  # noqa: PTH211

    def _link(self, sop: str) -> str:
        return f"{self.folder}/{zlib.crc32(sop.encode()) & 0xFF:02x}/{sop}"
