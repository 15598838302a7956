"""Labels that people gave to archived studies through the query service."""

from __future__ import annotations

from services.training.dataset.cases import DatasetError
from services.training.dataset.labels_file import LabelRow
from shared.archive import Archive
from shared.errors import ArchiveObjectCorruptError
from shared.labels import LabelRecord, LabelStore
from shared.vision.tasks import TaskDefinition


def archived_labels(archive: Archive, definition: TaskDefinition) -> list[LabelRow]:
    """The labels for a task that count now. Their comments, and who gave them, are left behind.

    Raises:
        DatasetError: there is none, one cannot be read, or one is no class of the task (any more).
        ArchiveUnavailableError: the archive cannot be read just now.
    """
    classes = {entry.label for entry in definition.classes}
    try:
        records = list(LabelStore(archive).of_task(definition.name))
    except ArchiveObjectCorruptError as error:
        raise DatasetError(f"a label cannot be read, give it anew: {error}") from error
    if not records:
        raise DatasetError(
            f"no archived study has a label for {definition.name}: give some through the API (docs/labels.md), or a "
            "CSV by --labels"
        )
    if strange := [record for record in records if record.label not in classes]:
        raise DatasetError(
            f"{len(strange)} labels are no class of {definition.name}, the first: {_told(strange[0])}; give them anew "
            "or withdraw them"
        )
    return [_row(number, record) for number, record in enumerate(records, start=1)]


def _row(number: int, record: LabelRecord) -> LabelRow:
    target = record.target
    return LabelRow(
        row=number,
        label=record.label or "",
        study=record.study_instance_uid,
        series=target.series_instance_uid,
        sop=target.sop_instance_uid,
        frame=target.frame_number,
        origin=_told(record),
    )


def _told(record: LabelRecord) -> str:
    return f"the label of {record.study_instance_uid}, {record.target.name}"
