"""What is archived, with labels from outside."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from labelled_images import DEFINITION, LABELS, dicom, picture

from services.training.dataset.archive_dataset import archive_dataset
from services.training.dataset.cases import DatasetError
from services.training.dataset.labels_file import parse_labels
from shared.archive import Archive, instance_key, manifest_key
from shared.archive.memory import MemoryArchive
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest


def store(archive: Archive, study: str, *, revision: int = 1, images: int = 1, modality: str = "MR") -> None:
    instances = []
    for number in range(1, images + 1):
        uid = f"{study}.1.{number}"
        data = dicom([picture(number, "spot")], uid=uid, study=study, patient="x")
        key = instance_key(study, f"{study}.1", uid)
        archive.put(key, data)
        instances.append(
            InstanceEntry(
                sop_instance_uid=uid,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                archive_key=key,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                number_of_frames=1,
                patient_pseudonym=f"pseudonym-{study}",
                sex="F",
                age_band="60-69",
                is_new=True,
            )
        )
    series = SeriesEntry(
        series_instance_uid=f"{study}.1", modality=modality, body_part="BRAIN", instances=tuple(instances)
    )
    manifest = StudyManifest(
        study_instance_uid=study,
        revision=revision,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        calling_ae_titles=("A",),
        patient_pseudonyms=(f"pseudonym-{study}",),
        mixed_patients=False,
        series=(series,),
    )
    archive.put(manifest_key(study, revision), manifest.model_dump_json().encode())


@pytest.fixture
def archive() -> MemoryArchive:
    archive = MemoryArchive()
    for study in ("1.1", "1.2", "1.3", "1.9"):
        store(archive, study)
    return archive


def labelled(text: str):
    return parse_labels(text, LABELS)


def test_labelled_studies_become_cases_at_their_newest_revision(archive):
    for revision in (2, 10):
        store(archive, "1.1", revision=revision, images=revision)
    rows = labelled("study,label,split\n1.1,spot,training\n1.2,bar,test\n1.3,normal,training\n")
    dataset = archive_dataset(archive, rows, DEFINITION)
    first = dataset.cases[0]
    assert [(case.study, case.label, case.split) for case in dataset.cases] == [
        ("1.1", "spot", "training"),
        ("1.2", "bar", "test"),
        ("1.3", "normal", "training"),
    ]
    assert len(first.load().objects) == 10
    assert (first.patient, first.subgroup) == ("pseudonym-1.1", {"sex": "F", "age_band": "60-69"})
    assert dataset.patients_known


def test_a_site_is_told_by_a_letter(archive):
    rows = labelled("study,label,site\n1.1,spot,Dr Smith\n1.2,bar,Town\n1.3,normal,Dr Smith\n")
    dataset = archive_dataset(archive, rows, DEFINITION)
    assert [case.subgroup["scanner"] for case in dataset.cases] == ["A", "B", "A"]


def test_images_may_be_labelled_one_by_one(archive):
    store(archive, "1.1", revision=2, images=3)
    rows = labelled("sop,study,label\n1.1.1.2,1.1,spot\n1.1.1.3,1.1,normal\n1.2.1.1,,bar\n,1.3,normal\n")
    case = archive_dataset(archive, rows, DEFINITION).cases[0]
    assert case.label == "spot"
    assert case.load().frame_labels == ("spot", "normal")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "study,label\n1.1,spot\n1.2,bar\n1.3,normal\n1.7,spot\n",
            "1 of the labels name nothing that is archived.*row 5",
        ),
        ("study,label\n1.1,spot\n1.1,bar\n", "another study"),
        ("sop,study,label\n1.1.1.1,1.1,spot\n1.1.1.2,1.1,bar\n", "contradict"),
    ],
)
def test_labels_that_fit_nothing_are_errors(archive, text, what):
    store(archive, "1.1", revision=2, images=2)
    with pytest.raises(DatasetError, match=what):
        archive_dataset(archive, labelled(text), DEFINITION)


def test_a_study_of_another_modality_is_none_of_the_tasks(archive):
    store(archive, "1.4", modality="CT")
    with pytest.raises(DatasetError, match=f"that {DEFINITION.name} takes"):
        archive_dataset(archive, labelled("study,label\n1.4,spot\n"), DEFINITION)


def test_an_object_that_is_missing_is_said_when_it_is_read(archive):
    rows = labelled("study,label\n1.1,spot\n1.2,bar\n1.3,normal\n")
    dataset = archive_dataset(archive, rows, DEFINITION)
    empty = MemoryArchive()
    for key in archive.list("manifests"):
        empty.put(key, archive.get(key))
    with pytest.raises(DatasetError, match="cannot be read"):
        archive_dataset(empty, rows, DEFINITION).cases[0].load()
    assert dataset.cases[0].load().objects
