"""Phantom to DICOM: an MR Image Storage series with true geometry, and its lesion as a SEG beside it.

Every UID is a UUID-derived 2.25 UID (PS3.5 B.2) of the spec, so that writing twice gives the same files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid5

import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from services.training.phantoms.anatomy import Anatomy, icbm152
from services.training.phantoms.brain_slab import (
    PIXEL_SPACING_MM,
    RECIPE_VERSION,
    ROWS,
    SLICE_SPACING_MM,
    SLICE_THICKNESS_MM,
    PhantomSpec,
    PhantomVolume,
    synthesise,
)
from services.training.phantoms.lesion import LABELS, NORMAL
from shared.ids import NAMESPACE

DISCLAIMER: Final = "Phantom, research use only"
Progress = Callable[[int, int], None]  # done, of how many
_IMPLEMENTATION_UID: Final = UID(f"2.25.{uuid5(NAMESPACE, 'implementation').int}")


@dataclass(frozen=True, slots=True)
class PhantomStudy:
    """A phantom study as written.

    Attributes:
        study_instance_uid: Its Study Instance UID.
        label: Its true class.
        seed: The virtual subject.
        folder: Where its MR images lie.
        images: Its files, from foot to head.
        mask: The lesion's DICOM SEG; None if normal.
        lesion_area_mm2: Area of the lesion in each image.
    """

    study_instance_uid: str
    label: str
    seed: int
    folder: Path
    images: tuple[Path, ...]
    mask: Path | None
    lesion_area_mm2: tuple[float, ...]


def write_phantoms(
    out: Path,
    *,
    studies: int,
    seed: int,
    contrast: float = 4.0,
    anatomy: Anatomy | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[PhantomStudy]:
    """Write studies, their classes in turn: `out/studies/<id>/*.dcm`, `out/masks/<id>.dcm`, `out/labels.json`.

    Args:
        out: The folder.
        studies: How many.
        seed: The same seed gives the same studies; another one, other subjects.
        contrast: See `PhantomSpec`.
        anatomy: Unset: the ICBM152 template.
        classes: Unset: all four.
        progress: Called after each study.

    Raises:
        ValueError: a class is unknown, or a number is out of range.
    """
    anatomy = anatomy or icbm152()
    labels = tuple(classes or LABELS)
    written = []
    (out / "masks").mkdir(parents=True, exist_ok=True)
    for index in range(studies):
        spec = PhantomSpec(seed * 100_000 + index, labels[index % len(labels)], contrast)
        written.append(write_study(out, anatomy, spec))
        if progress:
            progress(index + 1, studies)
    truth = {
        "note": f"{DISCLAIMER}. Ground truth by construction.",
        "anatomy": {"name": anatomy.name, "sha256": anatomy.sha256},
        "recipe_version": RECIPE_VERSION,
        "contrast": contrast,
        "studies": [_truth_of(study, out) for study in written],
    }
    (out / "labels.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return written


def write_study(out: Path, anatomy: Anatomy, spec: PhantomSpec) -> PhantomStudy:
    """Synthesise one phantom and write its images and its mask under `out`."""
    volume = synthesise(anatomy, spec)
    images = mr_images(anatomy, spec, volume)
    name = images[0].PatientID.lower()
    folder = out / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for image in images:
        paths.append(folder / f"{image.InstanceNumber:03d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    mask = None
    if spec.label != NORMAL:
        mask = out / "masks" / f"{name}.dcm"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask_segmentation(anatomy, spec, volume, images).save_as(mask, enforce_file_format=True)
    return PhantomStudy(
        study_instance_uid=str(images[0].StudyInstanceUID),
        label=spec.label,
        seed=spec.seed,
        folder=folder,
        images=tuple(paths),
        mask=mask,
        lesion_area_mm2=tuple(round(float(area), 2) for area in volume.lesion_area_mm2()),
    )


def mr_images(anatomy: Anatomy, spec: PhantomSpec, volume: PhantomVolume) -> list[FileDataset]:
    """The slab as MR Image Storage objects (PS3.3 A.4), from foot to head."""
    common = _common(anatomy, spec)
    centre, width = _window(volume)
    images = []
    for index, pixels in enumerate(volume.pixels):
        uid = phantom_uid(anatomy, spec, f"image {index + 1}")
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = _IMPLEMENTATION_UID
        meta.ImplementationVersionName = "SIMILIS"
        image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        image.update(common)
        image.SOPInstanceUID = uid
        image.InstanceNumber = index + 1
        # PS3.3 C.7.6.2: patient coordinates run to the left, to the back and to the head.
        corner = -(ROWS - 1) / 2 * PIXEL_SPACING_MM
        image.ImagePositionPatient = [round(corner, 4), round(corner, 4), round(float(volume.z_mm[index]), 4)]
        image.SliceLocation = round(float(volume.z_mm[index]), 4)
        image.WindowCenter, image.WindowWidth = centre, width
        image.PixelData = pixels.astype("<u2").tobytes()
        images.append(image)
    return images


def mask_segmentation(
    anatomy: Anatomy, spec: PhantomSpec, volume: PhantomVolume, images: Sequence[Dataset]
) -> Segmentation:
    """The lesion's exact mask as a binary DICOM SEG (PS3.3 A.51) that refers to the images."""
    algorithm = AlgorithmIdentificationSequence(
        name="Similis phantom", family=codes.DCM.ArtificialIntelligence, version=str(RECIPE_VERSION)
    )
    segment = SegmentDescription(
        segment_number=1,
        segment_label=f"{spec.label} lesion"[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    return Segmentation(
        source_images=images,
        pixel_array=volume.mask.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=phantom_uid(anatomy, spec, "mask series"),
        series_number=100,
        sop_instance_uid=phantom_uid(anatomy, spec, "mask"),
        instance_number=1,
        manufacturer="Similis",
        manufacturer_model_name="Similis phantom",
        software_versions=str(RECIPE_VERSION),
        device_serial_number="0",
        content_label="PHANTOM_LESION",
        content_description=DISCLAIMER,
        series_description=f"Lesion mask. {DISCLAIMER}",
    )


def part10_bytes(image: FileDataset) -> bytes:
    """The object as a Part 10 file."""
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def phantom_uid(anatomy: Anatomy, spec: PhantomSpec, role: str) -> str:
    """The UID of one part of a phantom study: the same spec and role, the same UID."""
    facts = ("phantom", RECIPE_VERSION, anatomy.sha256, spec.seed, spec.label, spec.contrast, spec.slices, role)
    return f"2.25.{uuid5(NAMESPACE, '|'.join(map(str, facts))).int}"


def _common(anatomy: Anatomy, spec: PhantomSpec) -> Dataset:
    """What all images of the study share."""
    person = np.random.default_rng([spec.seed, 7])  # apart from the pixels' stream
    image = Dataset()
    image.SOPClassUID = MRImageStorage
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    image.StudyInstanceUID = phantom_uid(anatomy, spec, "study")
    image.SeriesInstanceUID = phantom_uid(anatomy, spec, "series")
    image.FrameOfReferenceUID = phantom_uid(anatomy, spec, "frame of reference")
    image.PositionReferenceIndicator = ""
    code = f"{uuid5(NAMESPACE, image.StudyInstanceUID).hex[:8].upper()}"
    image.PatientID = f"PHANTOM-{code}"
    image.PatientName = f"PHANTOM^{code}"
    image.PatientBirthDate = ""
    image.PatientSex = str(person.choice(["F", "M"]))
    image.PatientAge = f"{int(person.integers(20, 90)):03d}Y"
    image.PatientIdentityRemoved = "YES"
    image.DeidentificationMethod = "Synthetic: no real patient"
    day = int(person.integers(0, 1461))
    date = (np.datetime64("2020-01-01") + day).astype(str).replace("-", "")
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = date
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
    image.StudyID = code[:8]
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.StudyDescription = f"Brain MR. {DISCLAIMER}"
    image.SeriesDescription = f"T1-like axial. {DISCLAIMER}"
    image.ImageComments = f"{DISCLAIMER}. Simulated on {anatomy.name}."
    image.SeriesNumber = 1
    image.AcquisitionNumber = 1
    image.Modality = "MR"
    image.BodyPartExamined = "BRAIN"
    image.PatientPosition = "HFS"
    image.Manufacturer = "Similis"
    image.ManufacturerModelName = "Similis phantom"
    image.DeviceSerialNumber = "0"
    image.SoftwareVersions = str(RECIPE_VERSION)
    image.ScanningSequence = "RM"
    image.SequenceVariant = "NONE"
    image.ScanOptions = ""
    image.MRAcquisitionType = "2D"
    image.RepetitionTime = ""
    image.EchoTime = ""
    image.EchoTrainLength = ""
    image.SliceThickness = SLICE_THICKNESS_MM
    image.SpacingBetweenSlices = SLICE_SPACING_MM
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [PIXEL_SPACING_MM, PIXEL_SPACING_MM]
    image.Rows = image.Columns = ROWS
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    return image


def _window(volume: PhantomVolume) -> tuple[int, int]:
    """Window centre and width from black to the brightest half percent."""
    width = max(2, round(float(np.percentile(volume.pixels, 99.5))))
    return width // 2, width


def _truth_of(study: PhantomStudy, out: Path) -> dict[str, object]:
    return {
        "study_instance_uid": study.study_instance_uid,
        "label": study.label,
        "seed": study.seed,
        "folder": str(study.folder.relative_to(out)),
        "mask": str(study.mask.relative_to(out)) if study.mask else None,
        "lesion_area_mm2": list(study.lesion_area_mm2),
    }
