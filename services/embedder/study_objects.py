"""A study's archived objects: verified when surveyed, then handed to the decoders, fetched once where memory allows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.archive import Archive, LocalArchive, check_key
from shared.archive.integrity import check_sha256
from shared.manifest import InstanceEntry

KEPT_BYTES: Final = 256 * 1024 * 1024


@dataclass(slots=True)
class StudyObjects:
    """The objects of one study, for one pass through it.

    A local archive gives paths, which a decode worker reads and verifies by itself. What comes over a network is
    kept between the survey and the decoding, up to `KEPT_BYTES`.
    """

    archive: Archive
    _kept: dict[str, bytes] = field(default_factory=dict)
    _kept_bytes: int = 0

    def verified(self, instance: InstanceEntry) -> bytes:
        """The object's bytes, checked against the manifest's hash.

        Raises:
            ArchiveObjectMissingError, ArchiveObjectCorruptError, ArchiveUnavailableError: as `survey_study`.
        """
        key = instance.archive_key
        data = self.archive.get(key)
        check_sha256(key, hashlib.sha256(data).hexdigest(), instance.sha256)
        if not isinstance(self.archive, LocalArchive) and self._kept_bytes + len(data) <= KEPT_BYTES:
            self._kept[key] = data
            self._kept_bytes += len(data)
        return data

    def source(self, instance: InstanceEntry) -> Path | bytes:
        """Where a decoder finds the object, which it must verify. A second call fetches again.

        Raises:
            ArchiveObjectMissingError, ArchiveUnavailableError: as `survey_study`.
        """
        if isinstance(self.archive, LocalArchive):
            return self.archive.root / check_key(instance.archive_key)
        kept = self._kept.pop(instance.archive_key, None)
        if kept is None:
            return self.archive.get(instance.archive_key)
        self._kept_bytes -= len(kept)
        return kept
