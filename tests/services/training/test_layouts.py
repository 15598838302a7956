"""Readers of public data sets, on tiny folders of the same layout. No real image is in them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from services.training.dataset.cases import DatasetError
from services.training.dataset.layouts import LAYOUTS, PNG_FOLDER, LabelledPath, read_layout


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), shade, np.uint8)).save(path)
    return path


def table(path: Path, *rows: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def read(name: str, folder: Path) -> list[LabelledPath]:
    return list(read_layout(name, folder))


def facts(found: list[LabelledPath]) -> list[tuple[str, str, str, str]]:
    return sorted((path.name, label, patient, split) for path, label, patient, split in found)


def test_brain_tumour_folders_give_class_and_split(tmp_path: Path) -> None:
    for part, short in (("Training", "Tr"), ("Testing", "Te")):
        for inner in ("glioma", "meningioma", "notumor", "pituitary"):
            picture(tmp_path / part / inner / f"{short}-{inner[:2]}_0010.jpg")
    found = read("brain-tumor-mri", tmp_path)
    assert facts(found) == sorted(
        (f"{short}-{inner[:2]}_0010.jpg", label, "", split)
        for short, split in (("Tr", "training"), ("Te", "test"))
        for inner, label in (
            ("glioma", "glioma"),
            ("meningioma", "meningioma"),
            ("notumor", "normal"),
            ("pituitary", "pituitary"),
        )
    )


def test_c_nmc_names_give_patients_and_bitmaps_become_png_once(tmp_path: Path) -> None:
    root = tmp_path / "C-NMC_training_data"
    picture(root / "fold_0" / "all" / "UID_11_10_1_all.bmp", 60)
    picture(root / "fold_1" / "hem" / "UID_H10_1_2_hem.bmp", 90)
    found = read("c-nmc", tmp_path)
    assert facts(found) == [
        ("UID_11_10_1_all.png", "blast", "11", ""),
        ("UID_H10_1_2_hem.png", "normal", "H10", ""),
    ]
    assert all(PNG_FOLDER in path.parts and path.is_relative_to(tmp_path) for path, *_ in found)
    assert np.array(Image.open(found[0].path))[0, 0].tolist() == [60, 60, 60]
    before = found[0].path.stat().st_mtime_ns
    assert read("c-nmc", tmp_path) == found
    assert found[0].path.stat().st_mtime_ns == before


def test_c_nmc_preliminary_test_set_is_the_test_split(tmp_path: Path) -> None:
    picture(tmp_path / "fold_0" / "all" / "UID_11_10_1_all.bmp")
    prelim = tmp_path / "C-NMC_test_prelim_phase_data"
    picture(prelim / "C-NMC_test_prelim_phase_data" / "1.bmp", 10)
    picture(prelim / "C-NMC_test_prelim_phase_data" / "2.bmp", 20)
    table(
        prelim / "C-NMC_test_prelim_phase_data_labels.csv",
        ("Patient_ID", "new_names", "labels"),
        ("UID_57_29_1_all.bmp", "1.bmp", "1"),
        ("UID_H22_31_15_hem.bmp", "2.bmp", "0"),
    )
    assert facts(read("c-nmc", tmp_path)) == [
        ("1.png", "blast", "57", "test"),
        ("2.png", "normal", "H22", "test"),
        ("UID_11_10_1_all.png", "blast", "11", "training"),
    ]


def test_all_idb_names_end_in_the_class(tmp_path: Path) -> None:
    picture(tmp_path / "ALL_IDB1" / "im" / "Im001_1.jpg")
    picture(tmp_path / "ALL_IDB2" / "img" / "Im131_0.tif", 30)
    for _ in range(2):  # what the first reading wrote is no picture of the second
        assert facts(read("all-idb", tmp_path)) == [("Im001_1.jpg", "blast", "", ""), ("Im131_0.png", "normal", "", "")]


def test_odir_rows_are_eyes_and_patients_and_withdrawn_pictures_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "preprocessed_images" / "0_left.jpg")
    picture(tmp_path / "ODIR-5K" / "ODIR-5K" / "Training Images" / "0_left.jpg")
    picture(tmp_path / "ODIR-5K" / "ODIR-5K" / "Training Images" / "0_right.jpg")
    table(
        tmp_path / "full_df.csv",
        ("ID", "Patient Age", "labels", "filename"),
        ("0", "69", "['C']", "0_left.jpg"),
        ("0", "69", "['N']", "0_right.jpg"),
        ("7", "50", "['D']", "7_left.jpg"),
    )
    found = read("odir-5k", tmp_path)
    assert facts(found) == [("0_left.jpg", "cataract", "0", ""), ("0_right.jpg", "normal", "0", "")]
    assert "preprocessed_images" in found[0].path.parts


def test_eye_disease_folders_give_the_patient_where_the_name_does(tmp_path: Path) -> None:
    picture(tmp_path / "dataset" / "normal" / "2329_left.jpg")
    picture(tmp_path / "dataset" / "normal" / "2329_right.jpg")
    picture(tmp_path / "dataset" / "glaucoma" / "_12_99.jpg")
    assert facts(read("eye-diseases", tmp_path)) == [
        ("2329_left.jpg", "normal", "odir-2329", ""),
        ("2329_right.jpg", "normal", "odir-2329", ""),
        ("_12_99.jpg", "glaucoma", "", ""),
    ]


def medmnist(folder: Path, name: str, shape: tuple[int, ...], classes: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.arange(len(classes) * int(np.prod(shape))).reshape(-1, *shape).astype(np.uint8)
        arrays[f"{part}_labels"] = np.array(classes, np.uint8)[:, None]
    np.savez(folder / f"{name}.npz", **arrays)


def test_medmnist_arrays_become_png_with_their_own_splits(tmp_path: Path) -> None:
    medmnist(tmp_path, "bloodmnist_64", (8, 8, 3), [0, 6])
    found = read("medmnist", tmp_path)
    assert [(label, split) for _, label, _, split in found] == [
        (label, split) for split in ("training", "calibration", "test") for label in ("basophil", "neutrophil")
    ]
    assert np.array_equal(np.array(Image.open(found[0].path)), np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    medmnist(tmp_path / "other", "organamnist", (8, 8), [3])
    assert read("medmnist", tmp_path / "other")[0].label == "class-3"


@pytest.mark.parametrize("shape", [(8, 8, 8), (8, 8, 8, 8)])
def test_medmnist_volumes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    medmnist(tmp_path, "nodulemnist3d", shape, [0])
    with pytest.raises(DatasetError, match="only flat 8-bit images"):
        read("medmnist", tmp_path)


def ct_slice(path: Path, z: float) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[str(path), str(z)])
    image.Modality = "CT"
    image.ImagePositionPatient = [0, 0, z]
    image.save_as(path, enforce_file_format=True)
    return str(image.SOPInstanceUID)


def reading(vote: int | None, outlines: dict[str, tuple[int, int]]) -> str:
    """A reader's nodule; without a vote, one smaller than 3 mm."""
    rois = "".join(
        f"<roi><imageZposition>0</imageZposition><imageSOP_UID>{uid}</imageSOP_UID><inclusion>TRUE</inclusion>"
        + "".join(
            f"<edgeMap><xCoord>{x + dx}</xCoord><yCoord>{y + dy}</yCoord></edgeMap>"
            for dx, dy in ((0, 0), (4, 0), (4, 4), (0, 4))
        )
        + "</roi>"
        for uid, (x, y) in outlines.items()
    )
    votes = f"<characteristics><malignancy>{vote}</malignancy></characteristics>" if vote else ""
    return f"<unblindedReadNodule><noduleID>1</noduleID>{votes}{rois}</unblindedReadNodule>"


def lidc(folder: Path, sessions: list[str]) -> None:
    body = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    text = f'<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov">{body}</LidcReadMessage>'
    (folder / "069.xml").write_text(text)


def test_lidc_slices_take_the_median_vote_of_at_least_three_readers(tmp_path: Path) -> None:
    for number, votes in ((1, (5, 4, 2, 4)), (2, (1, 2, 2, 3)), (3, (3, 3, 3, 3)), (4, (5, 5))):
        series = tmp_path / f"LIDC-IDRI-{number:04d}" / "1.2" / "1.3"
        uids = [ct_slice(series / f"{k:03d}.dcm", float(-k)) for k in range(6)]
        lidc(series, [reading(vote, {uids[2]: (100 + k, 50), uids[3]: (101, 50 - k)}) for k, vote in enumerate(votes)])
    found = read("lidc-idri", tmp_path)
    by_patient = {
        patient: {path.name: label for path, label, owner, split in found if owner == patient and split == ""}
        for patient in {entry.patient for entry in found}
    }
    assert by_patient["LIDC-IDRI-0001"]["002.dcm"] == by_patient["LIDC-IDRI-0001"]["003.dcm"] == "malignant"
    assert by_patient["LIDC-IDRI-0002"]["002.dcm"] == by_patient["LIDC-IDRI-0002"]["003.dcm"] == "benign"
    for patient in ("LIDC-IDRI-0003", "LIDC-IDRI-0004"):  # undecided, too few readers
        assert set(by_patient[patient].values()) == {"normal"}
    for labels in by_patient.values():  # a slice with any mark is never normal
        assert all(labels.get(name) != "normal" for name in ("002.dcm", "003.dcm"))
        assert labels["000.dcm"] == "normal"


def test_a_lidc_series_with_both_kinds_gives_its_malignant_slices(tmp_path: Path) -> None:
    series = tmp_path / "LIDC-IDRI-0009" / "s"
    uids = [ct_slice(series / f"{k}.dcm", float(k)) for k in range(4)]
    both = reading(5, {uids[0]: (10, 10), uids[1]: (10, 10)}) + reading(1, {uids[1]: (200, 200), uids[2]: (200, 200)})
    lidc(series, [both + reading(None, {uids[3]: (5, 5)})] * 3)
    assert facts(read("lidc-idri", tmp_path)) == [("0.dcm", "malignant", "LIDC-IDRI-0009", "")]


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    ct_slice(tmp_path / "1.dcm", 0)
    (tmp_path / "a.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')
    with pytest.raises(DatasetError, match="entities"):
        read("lidc-idri", tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_of_another_layout_is_refused(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "holiday" / "beach.jpg")
    with pytest.raises(DatasetError):
        read(name, tmp_path)
    with pytest.raises(DatasetError, match="not a folder"):
        read(name, tmp_path / "missing")


def test_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="c-nmc"):
        read("imagenet", tmp_path)


def test_a_table_without_its_columns_or_with_wrong_rows_is_refused_without_its_content(tmp_path: Path) -> None:
    picture(tmp_path / "0_left.jpg")
    table(tmp_path / "full_df.csv", ("ID", "filename"), ("secret", "0_left.jpg"))
    with pytest.raises(DatasetError, match="lacks the columns labels"):
        read("odir-5k", tmp_path)
    table(tmp_path / "full_df.csv", ("ID", "labels", "filename"), ("secret", "['X']", "0_left.jpg"))
    with pytest.raises(DatasetError, match="0 classes") as caught:
        read("odir-5k", tmp_path)
    assert "secret" not in str(caught.value)
