"""The step behind `similis reindex`: every judged study of the archive into the second backbone's collections.

manifests ─▶ study by study: there already? else decode, encode, upsert ─▶ what is missing? once more ─▶ Report

It may be killed at any moment and started again: points have deterministic ids, and a study is there only if all its
points are, of its newest diagnosed revision. It may run beside an embedder that writes the same collections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from services.embedder.embed_study import EmbedStudy
from services.embedder.ports import StoppingError
from shared.archive import Archive
from shared.errors import PermanentError, TransientError

log = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the second backbone's collections hold of the archive.

    Attributes:
        there: Studies that they hold, at their newest diagnosed revision.
        unjudged: Studies without a diagnosis, so no index holds them yet.
        missing: The other studies, by UID.
    """

    there: int
    unjudged: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one pass is.

    Attributes:
        written: Studies that were not there.
        failed: Studies that could not be written.
    """

    done: int
    of: int
    written: int
    failed: int


@dataclass(slots=True)
class Reindex:
    """Indexes what is missing. Blocks for as long as it takes; safe to repeat.

    Attributes:
        second: Its `settle` indexes one study.
        pause_s: Rest after each study that was written, for the services beside it.
        attempts: Times that a study is tried while the archive or the index is away.
        attempt_pause_s: The first pause between them; doubles, up to `LONGEST_PAUSE_S`.
        on_progress: Called after each study.
    """

    archive: Archive
    second: EmbedStudy
    pause_s: float = 0.0
    attempts: int = 8
    attempt_pause_s: float = 1.0
    on_progress: Callable[[Progress], None] = lambda _: None
    sleep: Callable[[float], None] = time.sleep
    _written: set[str] = field(default_factory=set)

    def __call__(self) -> Report:
        """Pass after pass over what is missing, as long as a pass writes something: studies come in meanwhile.

        Raises:
            TransientError: the archive or the index stayed away.
            ConfigurationError: a collection holds vectors of another length.
        """
        wanted: Sequence[str] = list(studies_of(self.archive))
        while True:
            wrote = self._pass(wanted)
            report = self.verify()
            if not report.missing or not wrote:
                return report
            wanted = report.missing

    def verify(self) -> Report:
        """Compare the archive with the collections, study by study.

        Raises:
            TransientError: the archive or the index did not answer.
        """
        there, unjudged, missing = 0, 0, []
        for study in studies_of(self.archive):
            newest = self.second.newest(study)
            if not newest:
                unjudged += 1
                continue
            frames = newest[0].frames_embedded
            if study in self._written:
                # Settings may have changed since the diagnosis, and with them how many frames are indexed.
                frames = min(1, frames)
            if self.second.holds(newest, frames):
                there += 1
            else:
                missing.append(study)
        return Report(there, unjudged, tuple(missing))

    def _pass(self, wanted: Sequence[str]) -> int:
        """Settle each study; how many had to be written."""
        written = failed = 0
        for done, study in enumerate(wanted, start=1):
            try:
                if self._settle(study):
                    written += 1
                    self._written.add(study)
                    self.sleep(self.pause_s)
            except PermanentError as error:
                failed += 1
                log.warning("study %s cannot be indexed: %s", study, error)
            self.on_progress(Progress(done, len(wanted), written, failed))
        return written

    def _settle(self, study: str) -> bool:
        pause_s = self.attempt_pause_s
        for attempt in range(1, self.attempts + 1):
            try:
                return self.second.settle(study)
            except StoppingError:
                raise
            except TransientError as error:
                if attempt == self.attempts:
                    raise
                log.warning("%s; trying again in %.0f s", error, pause_s)
            self.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False


def studies_of(archive: Archive) -> Iterator[str]:
    """The UIDs of all archived studies.

    Raises:
        ArchiveUnavailableError: the archive could not be read just now.
    """
    for study, _ in groupby(archive.list("manifests"), key=lambda key: key.split("/")[1]):
        yield study
