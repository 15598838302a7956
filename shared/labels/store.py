"""Labels in the archive: written once, never over one another; the last record of a place counts.

Two services that label the same place at the same moment write two records of one sequence number: both are kept, and
the later one by the clock counts, for every reader.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from pydantic import ValidationError

from shared.archive import Archive
from shared.errors import ArchiveObjectCorruptError, ArchiveObjectMissingError
from shared.events import now
from shared.labels.errors import TooManyLabelsError
from shared.labels.keys import FOLDER, LabelKey, label_key, place
from shared.labels.record import LabelRecord, LabelTarget


@dataclass(frozen=True, slots=True)
class LabelStore:
    """The labels of an archive. Its methods may block; call them from a thread, from several at once if need be.

    All of them raise ArchiveUnavailableError if the archive cannot be read or written just now, and
    ArchiveObjectCorruptError if a record that counts cannot be read: giving or withdrawing that label mends it.

    Attributes:
        records_max: Most records of one place.
        places_max: Most labelled places (study, series, instances, frames) of one study for one task.
        clock: Tells the time, aware.
    """

    archive: Archive
    records_max: int = 1000
    places_max: int = 4096
    clock: Callable[[], datetime] = now
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def give(
        self,
        study: str,
        task: str,
        target: LabelTarget,
        label: str,
        *,
        study_revision: int,
        by: str | None,
        comment: str | None = None,
    ) -> tuple[LabelRecord, bool]:
        """Record that `target` of `study` shows `label`, durably. Whether it may, `rules` have said.

        Returns:
            The record that counts now, and whether no label stood there before. If the same was said by the same
            principal of the same revision already, that record stays and none is written.

        Raises:
            TooManyLabelsError: a limit is reached.
        """
        with self._writing:
            last = self._last(study, task, target)
            before = self._readable(last)
            record = self._next(study, task, target, last, by, label=label, comment=comment, revision=study_revision)
            if before is not None and _said(before) == _said(record):
                return before, False
            if last is None:
                self._check_places(study, task)
            elif last.sequence >= self.records_max:
                raise TooManyLabelsError(f"This label has been changed {last.sequence} times; that is the limit.")
            return self._put(record), before is None or before.label is None

    def withdraw(self, study: str, task: str, target: LabelTarget, *, by: str | None) -> LabelRecord | None:
        """Record that the label of `target` no longer holds, durably. It may be of a study that is no longer there.

        Returns:
            The withdrawal, an earlier one if it was withdrawn already; None if none was ever given.
        """
        with self._writing:
            last = self._last(study, task, target)
            if last is None:
                return None
            before = self._readable(last)
            if before is not None and before.label is None:
                return before
            # No limit holds here: what stands can always be withdrawn.
            series = before.target.series_instance_uid if before is not None else target.series_instance_uid
            whole = target.model_copy(update={"series_instance_uid": series})
            return self._put(self._next(study, task, whole, last, by, label=None, comment=None, revision=None))

    def of_study(self, study: str) -> tuple[LabelRecord, ...]:
        """The labels of one study that count, of every task, by task and target."""
        return tuple(self._standing(self._keys(f"{FOLDER}/{study}")))

    def history(self, study: str) -> tuple[LabelRecord, ...]:
        """Every record of one study, withdrawals and superseded ones too; of each place the oldest first."""
        return tuple(record for key in self._keys(f"{FOLDER}/{study}") if (record := self._read(key)) is not None)

    def of_task(self, task: str, *, after: str | None = None) -> Iterator[LabelRecord]:
        """The labels for one task that count, read as they are asked for, in the order of their places.

        A call walks the keys of all labels, and reads only the records that it yields.

        Args:
            task: Its name.
            after: A place (`place_of`); the labels behind it are given.
        """
        keys = (key for key in self._keys(FOLDER) if key.task == task and (after is None or key.place > after))
        yield from self._standing(keys)

    def _keys(self, folder: str) -> Iterator[LabelKey]:
        return (found for key in self.archive.list(folder) if (found := LabelKey.parse(key)) is not None)

    def _standing(self, keys: Iterable[LabelKey]) -> Iterator[LabelRecord]:
        for _, of_place in itertools.groupby(keys, key=lambda key: key.place):
            record = self._read(max(of_place, key=lambda key: key.key))
            if record is not None and record.label is not None:
                yield record

    def _last(self, study: str, task: str, target: LabelTarget) -> LabelKey | None:
        folder = f"{FOLDER}/{place(study, task, target.name)}"
        return max(self._keys(folder), key=lambda key: key.key, default=None)

    def _read(self, key: LabelKey) -> LabelRecord | None:
        """The record at `key`; None if it was removed since it was listed."""
        try:
            record = LabelRecord.model_validate_json(self.archive.get(key.key))
        except ArchiveObjectMissingError:
            return None
        except ValidationError as error:
            raise ArchiveObjectCorruptError(f"{key.key} is not a label: {error.error_count()} errors") from None
        if label_key(record) != key.key:
            raise ArchiveObjectCorruptError(f"{key.key} holds another label")
        return record

    def _readable(self, key: LabelKey | None) -> LabelRecord | None:
        try:
            return self._read(key) if key is not None else None
        except ArchiveObjectCorruptError:
            return None  # a new record is written after it, which mends the place

    def _check_places(self, study: str, task: str) -> None:
        if len({key.place for key in self._keys(f"{FOLDER}/{study}/{task}")}) >= self.places_max:
            raise TooManyLabelsError(
                f"This study has labels on {self.places_max} places for {task}; that is the limit."
            )

    def _next(
        self,
        study: str,
        task: str,
        target: LabelTarget,
        last: LabelKey | None,
        by: str | None,
        *,
        label: str | None,
        comment: str | None,
        revision: int | None,
    ) -> LabelRecord:
        return LabelRecord(
            label_id=uuid4(),
            sequence=last.sequence + 1 if last else 1,
            recorded_at=self.clock(),
            recorded_by=by,
            study_instance_uid=study,
            study_revision=revision,
            target=target,
            task=task,
            label=label,
            comment=comment,
            supersedes=last.label_id if last else None,
        )

    def _put(self, record: LabelRecord) -> LabelRecord:
        self.archive.put(label_key(record), record.model_dump_json(indent=1).encode())
        return record


def _said(record: LabelRecord) -> tuple[object, ...]:
    return record.label, record.comment, record.recorded_by, record.study_revision


def place_of(record: LabelRecord) -> str:
    """The place of a record, as `LabelStore.of_task` takes it."""
    return place(record.study_instance_uid, record.task, record.target.name)
