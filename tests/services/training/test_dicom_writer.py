from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from services.training.phantoms.anatomy import Anatomy
from services.training.phantoms.brain_dicom import PhantomStudy, mr_images, part10_bytes, write_phantoms
from services.training.phantoms.brain_slab import PhantomSpec, synthesise
from services.training.phantoms.lesion import LABELS
from shared.ids import is_valid_uid
from shared.pixels import PixelLimits, read_frames

Written = tuple[Path, list[PhantomStudy]]


def test_every_class_is_written_in_turn_with_its_truth(written: Written) -> None:
    out, studies = written
    assert [study.label for study in studies] == list(LABELS)
    truth = json.loads((out / "labels.json").read_text())
    assert "research use only" in truth["note"]
    for study, entry in zip(studies, truth["studies"], strict=True):
        assert entry["study_instance_uid"] == study.study_instance_uid
        assert entry["label"] == study.label
        assert (out / entry["folder"]).is_dir()
        assert len(study.images) == 8
        assert (study.mask is None) == (study.label == "normal")


def test_images_are_mr_studies_that_say_phantom(written: Written) -> None:
    for study in written[1]:
        for path in study.images:
            image = pydicom.dcmread(path)
            assert image.SOPClassUID == pydicom.uid.MRImageStorage
            assert image.StudyInstanceUID == study.study_instance_uid
            assert image.BodyPartExamined == "BRAIN"
            assert image.PatientID.startswith("PHANTOM-")
            assert str(image.PatientName).startswith("PHANTOM^")
            for text in (image.StudyDescription, image.SeriesDescription, image.ImageComments):
                assert "hantom, research use only" in text


def test_uids_are_valid_and_all_different(written: Written) -> None:
    images = [pydicom.dcmread(path) for study in written[1] for path in study.images]
    sops = [image.SOPInstanceUID for image in images]
    assert len(set(sops)) == len(sops) == 32
    assert len({image.StudyInstanceUID for image in images}) == 4
    assert len({image.SeriesInstanceUID for image in images}) == 4
    assert len({image.FrameOfReferenceUID for image in images}) == 4
    assert len({image.PatientID for image in images}) == 4
    assert all(is_valid_uid(uid) and uid.startswith("2.25.") for uid in sops)


def test_slices_lie_where_the_phantom_put_them(anatomy: Anatomy) -> None:
    spec = PhantomSpec(12, "glioma-like")
    volume = synthesise(anatomy, spec)
    images = mr_images(anatomy, spec, volume)
    for image, z in zip(images, volume.z_mm, strict=True):
        rows, columns = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        assert np.allclose(np.cross(rows, columns), [0, 0, 1])  # slices rise towards the head
        position = np.array(image.ImagePositionPatient, float)
        assert position[2] == pytest.approx(z, abs=1e-3)
        middle = position + np.array([1, 1, 0]) * 127.5 * float(image.PixelSpacing[0])
        assert np.allclose(middle[:2], 0, atol=1e-3)
    heights = [float(image.ImagePositionPatient[2]) for image in images]
    assert np.allclose(np.diff(heights), float(images[0].SpacingBetweenSlices), atol=1e-3)


def test_the_pixel_path_reads_back_the_windowed_phantom(anatomy: Anatomy) -> None:
    spec = PhantomSpec(13, "metastasis-like")
    volume = synthesise(anatomy, spec)
    image = mr_images(anatomy, spec, volume)[3]
    (frame,) = read_frames(part10_bytes(image), limits=PixelLimits())
    centre, width = float(image.WindowCenter), float(image.WindowWidth)
    # PS3.3 C.11.2.1.2, the linear function.
    expected = np.clip((volume.pixels[3] - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    assert np.allclose(frame.pixels, expected, atol=1e-5)


def test_the_mask_is_the_exact_lesion(anatomy: Anatomy, written: Written) -> None:
    for study in written[1]:
        if study.mask is None:
            continue
        spec = PhantomSpec(study.seed, study.label)
        volume = synthesise(anatomy, spec)
        segmentation = pydicom.dcmread(study.mask)
        assert segmentation.StudyInstanceUID == study.study_instance_uid
        frames = np.atleast_3d(segmentation.pixel_array).reshape(-1, 256, 256)
        by_height = {
            round(float(group.PlanePositionSequence[0].ImagePositionPatient[2]), 2): frame
            for group, frame in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True)
        }
        for z, mask in zip(volume.z_mm, volume.mask, strict=True):
            drawn = by_height.get(round(float(z), 2))
            assert np.array_equal(mask, np.zeros_like(mask) if drawn is None else drawn.astype(bool))


def test_writing_twice_gives_the_same_image_files(anatomy: Anatomy, written: Written, tmp_path: Path) -> None:
    again = write_phantoms(tmp_path, studies=2, seed=3, anatomy=anatomy)
    for first, second in zip(written[1], again, strict=False):
        for one, other in zip(first.images, second.images, strict=True):
            assert one.read_bytes() == other.read_bytes()


def test_progress_is_told_and_classes_can_be_chosen(anatomy: Anatomy, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    studies = write_phantoms(
        tmp_path, studies=2, seed=8, anatomy=anatomy, classes=["meningioma-like"], progress=lambda *at: told.append(at)
    )
    assert told == [(1, 2), (2, 2)]
    assert {study.label for study in studies} == {"meningioma-like"}
    assert studies[0].study_instance_uid != studies[1].study_instance_uid


@pytest.mark.peers
@pytest.mark.skipif(
    shutil.which("dciodvfy") is None and os.environ.get("SIMILIS_REQUIRE_PEERS") != "1",
    reason="needs dciodvfy (Debian dicom3tools)",
)
def test_dciodvfy_finds_no_error(written: Written) -> None:
    files = [path for study in written[1] for path in (study.images[0], study.images[-1], study.mask) if path]
    assert len(files) == 11
    for path in files:
        report = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
        errors = [line for line in (report.stdout + report.stderr).splitlines() if line.startswith("Error")]
        assert not errors, (path, errors)
