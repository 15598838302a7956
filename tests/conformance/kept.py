"""What is in the archive of objects that were sent."""

from __future__ import annotations

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from services.listener.part10 import encode_file_head
from shared.manifest import InstanceEntry
from tests.services.listener.listener_harness import Running, Sample, wait_for


def entries(listener: Running, study: str, count: int = 1) -> dict[str, InstanceEntry]:
    """The archived instances of a study by SOP Instance UID, once there are `count`."""

    def newest() -> int:
        events = list(listener.publisher.events)
        return max((event.revision for _, event in events if event.study_instance_uid == study), default=0)

    def found() -> dict[str, InstanceEntry]:
        revision = newest()
        if not revision:
            return {}
        return {entry.sop_instance_uid: entry for _, entry in listener.manifest(study, revision).instances()}

    wait_for(lambda: len(found()) >= count, 20)
    return found()


def assert_as_sent(listener: Running, *samples: Sample) -> None:
    """Each object of one study is archived byte for byte."""
    by_sop = entries(listener, samples[0].study, len({sample.sop for sample in samples}))
    for sample in samples:
        entry = by_sop[sample.sop]
        head = encode_file_head(
            sop_class_uid=sample.sop_class, sop_instance_uid=sample.sop, transfer_syntax_uid=sample.transfer_syntax
        )
        assert listener.archive.get(entry.archive_key) == head + sample.dataset
        assert (entry.sop_class_uid, entry.transfer_syntax_uid) == (sample.sop_class, sample.transfer_syntax)


def archived(listener: Running, ds: Dataset) -> FileDataset:
    """The archived object with the UIDs of `ds`."""
    return dcmread(listener.archive.root / entries(listener, ds.StudyInstanceUID)[ds.SOPInstanceUID].archive_key)
