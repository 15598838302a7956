"""What is archived, with the labels that people gave through the API."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from labelled_images import DEFINITION, LABELS, PlainEncoder, dicom, picture

from services.training.dataset.archive_dataset import archive_dataset
from services.training.dataset.archived_labels import archived_labels
from services.training.dataset.cases import Case, DatasetError
from services.training.features.case_features import CaseEncoder
from shared.archive import Archive, instance_key, manifest_key
from shared.archive.memory import MemoryArchive
from shared.errors import ArchiveUnavailableError
from shared.labels import LabelStore, LabelTarget, label_key
from shared.manifest import InstanceEntry, SeriesEntry, StudyManifest

WHOLE = LabelTarget()


def store(archive: Archive, study: str, *, series: int = 1, images: int = 1, frames: int = 1) -> None:
    """A study of `series` series, each of `images` objects of `frames` frames."""
    entries = []
    for place in range(1, series + 1):
        instances = []
        for number in range(1, images + 1):
            uid = f"{study}.{place}.{number}"
            key = instance_key(study, f"{study}.{place}", uid)
            pictures = [picture(number + frame, "spot") for frame in range(frames)]
            data = dicom(pictures, uid=uid, study=study, patient="x")
            archive.put(key, data)
            instances.append(
                InstanceEntry(
                    sop_instance_uid=uid,
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
                    transfer_syntax_uid="1.2.840.10008.1.2.1",
                    archive_key=key,
                    size_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    number_of_frames=frames,
                    patient_pseudonym=f"pseudonym-{study}",
                    is_new=True,
                )
            )
        uid = f"{study}.{place}"
        entries.append(
            SeriesEntry(series_instance_uid=uid, modality="MR", body_part="BRAIN", instances=tuple(instances))
        )
    manifest = StudyManifest(
        study_instance_uid=study,
        revision=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        calling_ae_titles=("A",),
        patient_pseudonyms=(f"pseudonym-{study}",),
        mixed_patients=False,
        series=tuple(entries),
    )
    archive.put(manifest_key(study, 1), manifest.model_dump_json().encode())


@pytest.fixture
def archive() -> MemoryArchive:
    """Three studies of one image with a label each, and two larger ones without."""
    archive = MemoryArchive()
    for number, label in enumerate(LABELS, start=1):
        store(archive, f"1.{number}")
        label_as(archive, f"1.{number}", label)
    store(archive, "1.7", series=2, images=2)
    store(archive, "1.8", images=1, frames=3)
    return archive


def label_as(archive: Archive, study: str, label: str, target: LabelTarget = WHOLE, task: str = "shapes") -> None:
    LabelStore(archive).give(study, task, target, label, study_revision=1, by="reader-7", comment="free text")


def of_series(place: int, study: str = "1.7") -> LabelTarget:
    return LabelTarget(series_instance_uid=f"{study}.{place}")


def of_image(place: int, number: int, study: str = "1.7") -> LabelTarget:
    return LabelTarget(series_instance_uid=f"{study}.{place}", sop_instance_uid=f"{study}.{place}.{number}")


def of_frame(number: int) -> LabelTarget:
    return LabelTarget(series_instance_uid="1.8.1", sop_instance_uid="1.8.1.1", frame_number=number)


def case(archive: Archive, study: str) -> Case:
    dataset = archive_dataset(archive, archived_labels(archive, DEFINITION), DEFINITION, "labels given through the API")
    return next(case for case in dataset.cases if case.study == study)


def names(archive: Archive, study: str) -> list[str]:
    return [name.rpartition("/")[2].removesuffix(".dcm") for name in case(archive, study).load().names]


def test_labelled_studies_become_cases_and_the_others_do_not(archive):
    label_as(archive, "1.7", "spot", task="another")
    dataset = archive_dataset(archive, archived_labels(archive, DEFINITION), DEFINITION, "labels given through the API")
    assert [(case.study, case.label, case.patient) for case in dataset.cases] == [
        ("1.1", "normal", "pseudonym-1.1"),
        ("1.2", "spot", "pseudonym-1.2"),
        ("1.3", "bar", "pseudonym-1.3"),
    ]
    assert dataset.description == "archived studies, labels given through the API"
    assert "free text" not in repr(archived_labels(archive, DEFINITION))


def test_superseded_and_withdrawn_labels_do_not_count(archive):
    label_as(archive, "1.7", "normal")
    label_as(archive, "1.7", "spot")
    label_as(archive, "1.8", "spot")
    LabelStore(archive).withdraw("1.8", "shapes", WHOLE, by=None)
    dataset = archive_dataset(archive, archived_labels(archive, DEFINITION), DEFINITION)
    assert {case.study: case.label for case in dataset.cases} == {
        "1.1": "normal",
        "1.2": "spot",
        "1.3": "bar",
        "1.7": "spot",
    }


def test_the_narrowest_label_counts_for_each_image(archive):
    label_as(archive, "1.7", "spot")
    label_as(archive, "1.7", "normal", of_series(2))
    label_as(archive, "1.7", "spot", of_image(2, 2))
    found = case(archive, "1.7")
    assert found.label == "spot"
    assert names(archive, "1.7") == ["1.7.1.1", "1.7.1.2", "1.7.2.1", "1.7.2.2"]
    assert found.load().frame_labels == ("spot", "spot", "normal", "spot")


def test_images_without_any_label_are_left_out(archive):
    label_as(archive, "1.7", "bar", of_series(2))
    label_as(archive, "1.7", "bar", of_image(1, 2))
    assert names(archive, "1.7") == ["1.7.1.2", "1.7.2.1", "1.7.2.2"]
    assert case(archive, "1.7").load().frame_labels is None


def test_a_wider_label_may_be_overridden_everywhere_if_it_agrees(archive):
    label_as(archive, "1.7", "bar")
    for place in (1, 2):
        label_as(archive, "1.7", "normal", of_image(place, 1))
        label_as(archive, "1.7", "bar", of_image(place, 2))
    assert case(archive, "1.7").load().frame_labels == ("normal", "bar", "normal", "bar")


def test_frames_are_labelled_one_by_one_and_reach_the_features(archive):
    label_as(archive, "1.8", "normal", of_image(1, 1, "1.8"))
    label_as(archive, "1.8", "spot", of_frame(2))
    found = case(archive, "1.8")
    assert found.label == "spot"
    assert found.load().frame_labels == ("normal", "spot", "normal")
    (features,) = CaseEncoder(PlainEncoder(), None).encode([found], choose=lambda count: [0, count - 2])
    assert features.frame_labels == ("normal", "spot")


def test_all_frames_of_an_object_may_be_labelled_without_a_wider_label(archive):
    for number, label in ((1, "spot"), (2, "normal"), (3, "spot")):
        label_as(archive, "1.8", label, of_frame(number))
    assert case(archive, "1.8").load().frame_labels == ("spot", "normal", "spot")


def test_some_frames_alone_are_not_enough(archive):
    label_as(archive, "1.8", "spot", of_frame(2))
    with pytest.raises(DatasetError, match=r"the label of 1\.8, frame-1\.8\.1\.1-2: other frames .* have no label"):
        case(archive, "1.8")


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ([(of_series(1), "spot"), (of_series(2), "bar")], r"contradict each other: the label of 1\.7, series"),
        (
            [(WHOLE, "spot"), (of_series(1), "normal"), (of_series(2), "normal")],
            r"1\.7, study contradicts the narrower",
        ),
        ([(WHOLE, "normal"), (of_series(1), "bar"), (of_series(2), "bar")], r"1\.7, study contradicts the narrower"),
    ],
)
def test_labels_that_contradict_each_other_are_told(archive, labels, what):
    for target, label in labels:
        label_as(archive, "1.7", label, target)
    with pytest.raises(DatasetError, match=what):
        case(archive, "1.7")


def test_a_label_of_what_is_no_longer_archived_is_told_not_passed_over(archive):
    del archive.objects[manifest_key("1.2", 1)]
    with pytest.raises(DatasetError, match=r"1 of the labels name nothing .* the first: the label of 1\.2, study"):
        case(archive, "1.1")
    # Withdrawn, it holds nothing up; but then a class is missing.
    LabelStore(archive).withdraw("1.2", "shapes", WHOLE, by=None)
    with pytest.raises(DatasetError, match="no case is labelled spot"):
        case(archive, "1.1")


def test_a_label_that_is_no_class_any_more_is_told(archive):
    label_as(archive, "1.7", "square")
    with pytest.raises(DatasetError, match=r"1 labels are no class of shapes, the first: the label of 1\.7, study"):
        archived_labels(archive, DEFINITION)


def test_a_damaged_label_is_told(archive):
    (record,) = LabelStore(archive).of_study("1.2")
    archive.put(label_key(record), b"?")
    with pytest.raises(DatasetError, match="cannot be read, give it anew"):
        archived_labels(archive, DEFINITION)


def test_an_archive_that_is_away_is_another_error(archive, monkeypatch):
    def away(*_: object) -> None:
        raise ArchiveUnavailableError("gone")

    monkeypatch.setattr(MemoryArchive, "list", away)
    with pytest.raises(ArchiveUnavailableError):
        archived_labels(archive, DEFINITION)


def test_an_archive_without_labels_says_so():
    with pytest.raises(DatasetError, match="no archived study has a label for shapes"):
        archived_labels(MemoryArchive(), DEFINITION)
