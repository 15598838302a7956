"""Folders as people have them: pictures and DICOM, class folders and CSV files."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from labelled_images import DEFINITION, LABELS, dicom, picture, png, write_class_folders

from services.training.dataset.cases import DatasetError
from services.training.dataset.folder_dataset import folder_dataset


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def mr(uid: str, study: str, patient: str = "P1", **elements: object) -> bytes:
    return dicom([picture(1, "spot")], uid=uid, study=study, patient=patient, **elements)


def fill(folder: Path, without: str = "") -> None:
    """A picture of each class, so that a dataset is complete."""
    for label in LABELS:
        if label != without:
            write(folder / label / "filler.png", png(picture(90 + LABELS.index(label), label)))


def test_each_picture_of_a_class_folder_is_a_case(tmp_path: Path):
    dataset = folder_dataset(write_class_folders(tmp_path, 2), DEFINITION)
    assert sorted(case.label for case in dataset.cases) == sorted(LABELS * 2)
    assert not dataset.patients_known
    (first, *_) = dataset.cases
    assert first.load().names == ("bar/0002.png",)
    assert first.patient == first.study


def test_folders_of_splits_and_of_patients_are_understood(tmp_path: Path):
    for split in ("train", "val", "testing"):
        fill(tmp_path / split)
        write(tmp_path / split / "Spot" / f"{split}-patient" / "1.png", png(picture(1, "spot")))
        write(tmp_path / split / "Spot" / f"{split}-patient" / "2.png", png(picture(2, "spot")))
    dataset = folder_dataset(tmp_path, DEFINITION)
    assert {case.split for case in dataset.cases} == {"training", "calibration", "test"}
    patients = [case.patient for case in dataset.cases if case.patient.endswith("-patient")]
    assert sorted(patients) == sorted(["train-patient", "val-patient", "testing-patient"] * 2)


def test_dicom_objects_of_a_study_are_one_case_in_order(tmp_path: Path):
    fill(tmp_path, without="spot")
    write(tmp_path / "spot" / "b.dcm", mr("1.2.1", "1.2", InstanceNumber="2", PatientSex="F", PatientAge="063Y"))
    write(tmp_path / "spot" / "a.dcm", mr("1.2.2", "1.2", InstanceNumber="10"))
    write(tmp_path / "spot" / "ct.dcm", mr("1.2.3", "1.2", Modality="CT"))
    write(tmp_path / "spot" / "localizer.dcm", mr("1.2.4", "1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write(tmp_path / "spot" / "notes.txt", b"no image")
    (case,) = [case for case in folder_dataset(tmp_path, DEFINITION).cases if case.label == "spot"]
    assert case.load().names == ("spot/b.dcm", "spot/a.dcm")
    assert (case.study, case.patient) == ("1.2", "P1")
    assert case.subgroup == {"sex": "F", "age_band": "60-69"}


def test_rows_may_name_files_folders_studies_and_instances(tmp_path: Path):
    write(tmp_path / "x" / "1.png", png(picture(1, "bar")))
    write(tmp_path / "scan" / "1.dcm", mr("1.2.1", "1.2"))
    write(tmp_path / "scan" / "2.dcm", mr("1.2.2", "1.2", InstanceNumber="2"))
    write(tmp_path / "more" / "3.dcm", mr("1.3.1", "1.3", patient="P2"))
    write(tmp_path / "more" / "4.dcm", mr("1.4.1", "1.4", patient="P3"))
    write(
        tmp_path / "labels.csv",
        b"path,study,sop,label,sex,patient\nx/1.png,,,bar,M,P9\nscan,,,spot,,\n,1.3,,normal,,\n,,1.4.1,bar,,\n",
    )
    dataset = folder_dataset(tmp_path, DEFINITION)
    by_label = {(case.label, case.patient): case for case in dataset.cases}
    assert set(by_label) == {("bar", "P9"), ("spot", "P1"), ("normal", "P2"), ("bar", "P3")}
    assert by_label["spot", "P1"].load().names == ("scan/1.dcm", "scan/2.dcm")
    assert by_label["bar", "P9"].subgroup == {"sex": "M"}
    assert dataset.patients_known


def test_images_of_a_study_may_be_labelled_one_by_one(tmp_path: Path):
    fill(tmp_path)
    for number, label in enumerate(("normal", "spot", "normal")):
        write(tmp_path / "s" / f"{number}.png", png(picture(number, label)))
    rows = [
        "path,study,label",
        *(f"s/{n},A,{label}" for n, label in (("0.png", "normal"), ("1.png", "spot"), ("2.png", "normal"))),
    ]
    rows += [f"{label}/filler.png,{label},{label}" for label in LABELS]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    (case,) = [case for case in folder_dataset(tmp_path, DEFINITION).cases if case.study == "A"]
    assert case.label == "spot"
    assert case.load().frame_labels == ("normal", "spot", "normal")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("a.png,normal,,\nnone.png,spot,,\n", "row 3: the file is not there"),
        ("a.png,normal,,\na.png,spot,,\n", "rows 2 and 3 label the same file"),
        ("empty,normal,,\n", "row 2: no image that the task takes"),
        ("a.png,normal,,\n", "no case is labelled spot, bar"),
        ("a.png,spot,S,\nb.png,bar,S,\n", "a study of 2 files has 2 labels"),
        ("a.png,spot,S,p1\nb.png,spot,S,p2\n", "of several patients"),
    ],
)
def test_rows_that_contradict_or_name_nothing_are_errors(tmp_path: Path, rows, what):
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "b.png"):
        write(tmp_path / name, png(picture(1, "spot")))
    (tmp_path / "labels.csv").write_text("path,label,study,patient\n" + rows)
    with pytest.raises(DatasetError, match=what):
        folder_dataset(tmp_path, DEFINITION)


def test_the_headers_patient_counts_more_than_the_folder(tmp_path: Path):
    fill(tmp_path, without="spot")
    for study in ("1.2", "1.3"):
        write(tmp_path / "spot" / f"study-{study}" / "1.dcm", mr(f"{study}.1", study, patient="P1"))
    write(tmp_path / "spot" / "no-name" / "1.dcm", mr("1.4.1", "1.4", patient=""))
    dataset = folder_dataset(tmp_path, DEFINITION)
    patients = [case.patient for case in dataset.cases if case.label == "spot"]
    assert patients == ["P1", "P1", "no-name"]


def test_slices_of_a_study_stay_together_though_rows_name_files(tmp_path: Path):
    fill(tmp_path)
    rows = [f"{label}/filler.png,{label}" for label in LABELS]
    for number in range(3):
        write(tmp_path / f"{number}.dcm", mr(f"1.2.{number}", "1.2", patient="", InstanceNumber=str(number)))
        rows.append(f"{number}.dcm,spot")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    dataset = folder_dataset(tmp_path, DEFINITION)
    (case,) = [case for case in dataset.cases if case.study == "1.2"]
    assert case.load().names == ("0.dcm", "1.dcm", "2.dcm")
    assert case.patient == "1.2"
    assert not dataset.patients_known


def test_a_study_that_rows_call_two_is_of_one_patient(tmp_path: Path):
    fill(tmp_path)
    rows = [f"{label}/filler.png,{label},{label}" for label in LABELS]
    for number in range(2):
        write(tmp_path / f"{number}.dcm", mr(f"1.2.{number}", "1.2", patient=""))
        rows.append(f"{number}.dcm,spot,mine-{number}")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,study", *rows]) + "\n")
    cases = [case for case in folder_dataset(tmp_path, DEFINITION).cases if case.study.startswith("mine")]
    assert [case.patient for case in cases] == ["1.2", "1.2"]


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path):
    fill(tmp_path)
    bare = mr("1.2.1", "1.2")[132:]
    write(tmp_path / "spot" / "bare", bare)
    write(tmp_path / "spot" / "ct.dcm", mr("1.2.3", "1.2", Modality="CT"))
    write(tmp_path / "bar" / "mg.dcm", mr("1.2.5", "1.2", Modality="MG"))
    write(tmp_path / "spot" / "scout.dcm", mr("1.2.4", "1.2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write(tmp_path / "spot" / "notes.txt", b"no image")
    write(tmp_path / "spot" / "cut.dcm", mr("1.2.6", "1.2")[:150] + b"\xff" * 40)
    write(tmp_path / "lost.png", png(picture(1, "spot")))
    assert folder_dataset(tmp_path, DEFINITION).description == (
        "a folder, class folders; left out: 1 DICOM files of an excluded image type, 2 DICOM files of another "
        "modality, 1 DICOM files without a preamble, 1 DICOM files without an image, 1 files beside the class "
        "folders, 1 files that are no images"
    )


def test_a_value_that_breaks_its_rules_gives_no_warning_that_would_quote_it(tmp_path: Path):
    fill(tmp_path, without="spot")
    whole = mr("1.2.1", "1.2", InstanceNumber="12")
    broken = whole.replace(b"IS\x02\x0012", b"IS\x02\x001x")
    assert broken != whole
    write(tmp_path / "spot" / "a.dcm", broken)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        (case,) = [case for case in folder_dataset(tmp_path, DEFINITION).cases if case.label == "spot"]
    assert case.study == "1.2"
    assert told == []


@pytest.mark.parametrize("suffix", [".bmp", ".TIF", ".tiff", ".webp", ".gif"])
def test_pictures_of_a_kind_that_is_not_read_are_refused_not_dropped(tmp_path: Path, suffix):
    fill(tmp_path)
    for number in range(2):
        write(tmp_path / "spot" / f"Smith{number}{suffix}", b"BM")
    with pytest.raises(DatasetError, match=r"^2 pictures that are not read .*convert them to PNG") as error:
        folder_dataset(tmp_path, DEFINITION)
    assert "Smith" not in str(error.value)
    rows = "".join(f"{label}/filler.png,{label}\n" for label in LABELS)
    (tmp_path / "labels.csv").write_text("path,label\n" + rows)
    assert len(folder_dataset(tmp_path, DEFINITION).cases) == 3  # no row refers to them
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}spot/Smith0{suffix},spot\n")
    with pytest.raises(DatasetError, match=r"^row 5: 1 pictures that are not read") as error:
        folder_dataset(tmp_path, DEFINITION)
    assert "Smith" not in str(error.value)


@pytest.mark.parametrize("name", ["Smith" * 80 + ".png", "Smith.dcm"])
def test_a_path_that_cannot_be_read_is_named_by_its_row(tmp_path: Path, name):
    plain = b"\x14\x001.2.840.10008.1.2.1\0"  # now called deflated, which it is not
    write(tmp_path / "Smith.dcm", mr("1.2.1", "1.2").replace(plain, b"\x16\x001.2.840.10008.1.2.1.99"))
    (tmp_path / "labels.csv").write_text(f"path,label\n{name},spot\n")
    with pytest.raises(DatasetError, match="row 2") as error:
        folder_dataset(tmp_path, DEFINITION)
    assert "Smith" not in str(error.value)


def test_scanners_and_sites_become_letters_and_other_traits_have_few_values(tmp_path: Path):
    fill(tmp_path)
    write(tmp_path / "1.dcm", mr("1.2.1", "1.2", ManufacturerModelName="Model X", PatientSex="M"))
    sites = ("Dr Smith, Town", "Elsewhere", "Dr Smith, Town")
    rows = [f'{label}/filler.png,{label},"{site}"' for label, site in zip(LABELS, sites, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,site", *rows, "1.dcm,spot,"]) + "\n")
    by_study = {case.study: case.subgroup for case in folder_dataset(tmp_path, DEFINITION).cases}
    assert by_study == {
        "1.2": {"sex": "M", "scanner": "A"},
        "bar/filler.png": {"scanner": "B"},
        "normal/filler.png": {"scanner": "B"},
        "spot/filler.png": {"scanner": "C"},
    }


def test_unknown_class_folders_are_counted_not_named(tmp_path: Path):
    fill(tmp_path)
    write(tmp_path / "Smith John" / "1.png", png(picture(1, "spot")))
    with pytest.raises(DatasetError, match="1 folders are named after no class of normal, spot, bar") as error:
        folder_dataset(tmp_path, DEFINITION)
    assert "Smith" not in str(error.value)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(DatasetError, match="is not a folder"):
        folder_dataset(tmp_path / "none", DEFINITION)
