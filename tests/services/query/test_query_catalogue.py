from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from light_box_seed import TASK, Seed

from services.query import catalogue as module
from services.query.catalogue import Catalogue
from shared import archive as keys
from shared.archive import LocalArchive, MemoryArchive
from shared.events import Decision
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest


@dataclass
class CountingArchive(MemoryArchive):
    reads: list[str] = field(default_factory=list)

    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def get(self, key: str) -> bytes:
        self.reads.append(key)
        assert self.gate.wait(5)
        return MemoryArchive.get(self, key)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counting(empty: Seed) -> Seed:
    return Seed(CountingArchive(), empty.index, empty.encoder)


def test_a_refresh_reads_only_what_changed(counting: Seed):
    clock = Clock()
    catalogue = Catalogue(counting.archive, max_age_s=2, clock=clock)
    counting.study(1)
    counting.study(2)
    assert len(catalogue.studies()) == 2
    counting.archive.reads.clear()
    counting.study(3)
    assert len(catalogue.studies()) == 2, "still fresh"
    clock.now += 3
    assert len(catalogue.studies()) == 3
    assert all(".3/" in key or ".3." in key for key in counting.archive.reads), counting.archive.reads


def test_a_later_diagnosis_and_map_change_the_record(counting: Seed):
    catalogue = Catalogue(counting.archive, max_age_s=0)
    counting.study(1, decision=None)
    assert catalogue.studies()[0].diagnoses == ()
    counting.study(1, label="glioma-like", decision=Decision.FINDING)
    assert catalogue.studies()[0].diagnoses[0].label == "glioma-like"
    counting.study(1, label="glioma-like", decision=Decision.FINDING, explained=True)
    assert catalogue.studies()[0].map_count == 1


def test_a_new_revision_shows_the_last_diagnosis_until_it_has_its_own(counting: Seed):
    catalogue = Catalogue(counting.archive, max_age_s=0)
    counting.study(1, slices=3)
    counting.study(1, slices=5, revision=2, decision=None)
    record = catalogue.studies()[0]
    assert (record.revision, record.instance_count, record.diagnoses[0].revision) == (2, 5, 1)
    counting.study(1, slices=5, revision=2, label="glioma-like", decision=Decision.FINDING)
    assert catalogue.studies()[0].diagnoses[0].revision == 2


def test_an_overwritten_diagnosis_is_seen_at_once_when_the_study_is_asked_for(counting: Seed):
    catalogue = Catalogue(counting.archive, max_age_s=1000)
    study = counting.study(1, label="glioma-like", decision=Decision.FINDING)
    catalogue.studies()
    counting.study(1, label="normal", decision=Decision.NO_FINDING)
    assert catalogue.study(study.uid).record.diagnoses[0].label == "normal"


@pytest.mark.parametrize("document", [b"", b"{}", b"\xff\xfe", b"[1, 2", b'{"study_instance_uid": "1.2"}'])
def test_documents_that_are_not_what_they_should_be_hide_only_themselves(counting: Seed, document: bytes):
    catalogue = Catalogue(counting.archive, max_age_s=0)
    good = counting.study(1)
    counting.archive.put(keys.manifest_key("2.25.9", 1), document)
    counting.archive.put(keys.diagnosis_key(good.uid, 1, TASK), document)
    counting.archive.put("manifests/stray.json", document)
    counting.archive.put(f"diagnoses/{good.uid}/not-a-number/x.json", document)
    assert [record.study_instance_uid for record in catalogue.studies()] == [good.uid]
    assert catalogue.studies()[0].diagnoses == ()
    assert catalogue.study("2.25.9") is None


def test_a_slow_walk_is_not_waited_for(counting: Seed, monkeypatch):
    monkeypatch.setattr(module, "QUICK_S", -1.0)
    catalogue = Catalogue(counting.archive, max_age_s=0)
    counting.study(1)
    assert len(catalogue.studies()) == 1, "the first walk is waited for"
    counting.study(2)
    counting.archive.gate.clear()
    assert len(catalogue.studies()) == 1, "the list as it was"
    counting.archive.gate.set()
    end = time.monotonic() + 5
    while len(catalogue.studies()) != 2:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_thousands_of_studies_are_cheap_to_look_at_again(tmp_path: Path):
    archive = LocalArchive(tmp_path)
    count = 2000
    for number in range(count):
        uid = f"2.25.{number + 1}"
        instance = InstanceEntry(
            sop_instance_uid=f"{uid}.1",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            archive_key=keys.instance_key(uid, uid, f"{uid}.1"),
            size_bytes=1,
            sha256="0" * 64,
            number_of_frames=1,
            patient_pseudonym="p",
            is_new=True,
        )
        manifest = StudyManifest(
            study_instance_uid=uid,
            revision=1,
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            calling_ae_titles=("A",),
            patient_pseudonyms=("p",),
            mixed_patients=False,
            series=(SeriesEntry(series_instance_uid=uid, modality="MR", instances=(instance,)),),
        )
        # Not through the archive: two thousand fsyncs would be the test's time.
        path = tmp_path / keys.manifest_key(uid, 1)
        path.parent.mkdir(parents=True)
        path.write_text(manifest.model_dump_json())
    catalogue = Catalogue(archive, max_age_s=0)
    assert len(catalogue.studies()) == count
    started = time.process_time()
    catalogue.studies()
    assert time.process_time() - started < 1.0
