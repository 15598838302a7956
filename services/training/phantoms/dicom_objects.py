"""Flat phantoms to DICOM: CT, VL microscopic and ophthalmic objects that say what they are.

Every UID is a UUID-derived 2.25 UID (PS3.5 B.2) of what the study is made from: the same phantom, the same files.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid5

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    OphthalmicPhotography8BitImageStorage,
    VLMicroscopicImageStorage,
)

from shared.ids import NAMESPACE

DISCLAIMER: Final = "Phantom, research use only"
SCANNERS: Final = ("A", "B", "C")
JPEG_QUALITY: Final = 92
_IMPLEMENTATION_UID: Final = UID(f"2.25.{uuid5(NAMESPACE, 'implementation').int}")


@dataclass(frozen=True, slots=True)
class PhantomIdentity:
    """What a phantom study is made from; its ids and its virtual person follow from that alone."""

    task: str
    version: int
    source: str
    seed: int
    label: str
    contrast: float

    def uid(self, role: str) -> str:
        """The UID of one part of the study."""
        facts = ("phantom", self.task, self.version, self.source, self.seed, self.label, float(self.contrast), role)
        return f"2.25.{uuid5(NAMESPACE, '|'.join(map(str, facts))).int}"

    @property
    def study_id(self) -> str:
        """Unique, short, and silent about the class."""
        return f"{self.task}-{uuid5(NAMESPACE, self.uid('study')).hex[:12]}"

    @property
    def patient(self) -> str:
        """The virtual subject: the seed's, whatever the label."""
        return f"PHANTOM-{uuid5(NAMESPACE, f'phantom|{self.task}|{self.seed}').hex[:8].upper()}"

    @property
    def subgroup(self) -> dict[str, str]:
        """Sex, age band and scanner, drawn by the seed apart from everything that is seen."""
        sex, age, scanner = self._person()
        decade = age // 10 * 10
        return {"sex": sex, "age_band": f"{decade}-{decade + 9}", "scanner": scanner}

    def _person(self) -> tuple[str, int, str]:
        rng = np.random.default_rng([self.seed, 7])
        return str(rng.choice(["F", "M"])), int(rng.integers(20, 90)), str(rng.choice(SCANNERS))

    def common(self, *, title: str, modality: str, sop_class: UID) -> Dataset:
        """What all images of the study share: patient, study, series, equipment."""
        sex, age, scanner = self._person()
        image = Dataset()
        image.SOPClassUID = sop_class
        image.StudyInstanceUID = self.uid("study")
        image.SeriesInstanceUID = self.uid("series")
        image.PatientID = self.patient
        image.PatientName = f"PHANTOM^{self.patient.removeprefix('PHANTOM-')}"
        image.PatientBirthDate = ""
        image.PatientSex = sex
        image.PatientAge = f"{age:03d}Y"
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = "Phantom: no real patient"
        day = int(np.random.default_rng([self.seed, 8]).integers(0, 1461))
        date = (np.datetime64("2020-01-01") + day).astype(str).replace("-", "")
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = date
        image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
        image.StudyID = self.study_id[-8:]
        image.AccessionNumber = ""
        image.ReferringPhysicianName = ""
        image.StudyDescription = f"{title}. {DISCLAIMER}"[:64]
        image.SeriesDescription = f"{title}. {DISCLAIMER}"[:64]
        image.ImageComments = f"{DISCLAIMER}. Made on {self.source}."
        image.SeriesNumber = 1
        image.Modality = modality
        image.Manufacturer = "Similis"
        image.ManufacturerModelName = f"Similis phantom {scanner}"
        image.DeviceSerialNumber = "0"
        image.SoftwareVersions = str(self.version)
        return image


def ct_objects(
    identity: PhantomIdentity,
    slices_hu: Sequence[NDArray[np.float32]],
    *,
    title: str,
    body_part: str,
    spacing_mm: float,
    slice_step_mm: float,
    window: tuple[int, int],
) -> tuple[bytes, ...]:
    """CT Image Storage objects (PS3.3 A.3), from foot to head, in Hounsfield units through the rescale."""
    objects = []
    for index, hu in enumerate(slices_hu):
        image = identity.common(title=title, modality="CT", sop_class=CTImageStorage)
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        image.FrameOfReferenceUID = identity.uid("frame of reference")
        image.PositionReferenceIndicator = ""
        image.BodyPartExamined = body_part
        image.PatientPosition = "HFS"
        image.AcquisitionNumber = 1
        image.KVP = 120
        image.SliceThickness = slice_step_mm
        corner = [round(-(size - 1) / 2 * spacing_mm, 4) for size in hu.shape[::-1]]
        image.ImagePositionPatient = [*corner, round((index - (len(slices_hu) - 1) / 2) * slice_step_mm, 4)]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = [spacing_mm, spacing_mm]
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
        image.WindowCenter, image.WindowWidth = window
        stored = np.clip(np.rint(hu + 1024), 0, 4095).astype("<u2")
        _grey(image, stored, bits=12)
        objects.append(_part10(identity, image, index, ExplicitVRLittleEndian))
    return tuple(objects)


def microscopic_objects(
    identity: PhantomIdentity, fields: Sequence[NDArray[np.uint8]], *, title: str, jpeg: bool
) -> tuple[bytes, ...]:
    """VL Microscopic Image Storage objects (PS3.3 A.32.2), (H, W, 3) RGB each, uncompressed or JPEG baseline."""
    objects = []
    for index, pixels in enumerate(fields):
        image = identity.common(title=title, modality="GM", sop_class=VLMicroscopicImageStorage)
        image.ImageType = ["DERIVED", "SECONDARY"]
        image.PatientOrientation = ""
        image.AcquisitionDateTime = f"{image.StudyDate}120000"
        image.LossyImageCompression = "00"
        image.AcquisitionContextSequence = []
        specimen = Dataset()
        specimen.SpecimenIdentifier = identity.study_id
        specimen.SpecimenUID = identity.uid("specimen")
        specimen.IssuerOfTheSpecimenIdentifierSequence = []
        specimen.SpecimenPreparationSequence = []
        image.ContainerIdentifier = identity.study_id
        image.IssuerOfTheContainerIdentifierSequence = []
        image.ContainerTypeCodeSequence = [_coded(Code("433466003", "SCT", "Microscope slide"))]
        image.SpecimenDescriptionSequence = [specimen]
        objects.append(_colour(identity, image, pixels, index, jpeg=jpeg))
    return tuple(objects)


def ophthalmic_objects(
    identity: PhantomIdentity, images: Sequence[NDArray[np.uint8]], *, title: str, laterality: str, jpeg: bool
) -> tuple[bytes, ...]:
    """Ophthalmic Photography 8 Bit Image Storage objects (PS3.3 A.41), (H, W, 3) RGB each."""
    objects = []
    for index, pixels in enumerate(images):
        image = identity.common(title=title, modality="OP", sop_class=OphthalmicPhotography8BitImageStorage)
        # PS3.3 section C.8.17.2.1.4: DERIVED needs a source image to refer to, and there is none.
        image.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
        image.BodyPartExamined = "EYE"
        image.ImageLaterality = laterality
        image.AcquisitionDateTime = f"{image.StudyDate}120000"
        image.PatientOrientation = ["L", "F"]
        image.SynchronizationFrameOfReferenceUID = identity.uid("clock")
        image.SynchronizationTrigger = "NO TRIGGER"
        image.AcquisitionTimeSynchronized = "N"
        image.NumberOfFrames = 1
        image.FrameTime = 0
        image.FrameIncrementPointer = Tag("FrameTime")
        image.LossyImageCompression = "00"
        image.BurnedInAnnotation = "NO"
        image.AcquisitionContextSequence = []
        image.PatientEyeMovementCommanded = "NO"
        image.PupilDilated = "NO"
        image.IntraOcularPressure = None
        image.HorizontalFieldOfView = 45
        image.RefractiveStateSequence = []
        image.EmmetropicMagnification = None
        image.AnatomicRegionSequence = [_coded(Code("5665001", "SCT", "Retina"))]
        image.AcquisitionDeviceTypeCodeSequence = [_coded(Code("409898007", "SCT", "Fundus Camera"))]
        image.IlluminationTypeCodeSequence = []
        image.LightPathFilterTypeStackCodeSequence = []
        image.ImagePathFilterTypeStackCodeSequence = []
        image.LensesCodeSequence = []
        image.DetectorType = "CCD"
        objects.append(_colour(identity, image, pixels, index, jpeg=jpeg))
    return tuple(objects)


def coded_classes(labels: Sequence[str], normal: str, meanings: Mapping[str, str]) -> list[dict[str, Any]]:
    """The classes of `task.yaml`. The codes are private on purpose: a phantom must not be filed as a disease."""
    return [
        {
            "label": label,
            "is_finding": label != normal,
            "code": {
                "value": f"PHANTOM-{label.removesuffix('-like').upper()}"[:16].rstrip("-"),
                "scheme": "99SIMILIS",
                "meaning": f"Phantom, {meanings.get(label, label)}",
            },
        }
        for label in labels
    ]


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _grey(image: Dataset, stored: NDArray[Any], *, bits: int) -> None:
    image.Rows, image.Columns = stored.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = 0
    image.PixelData = stored.tobytes()


def _colour(identity: PhantomIdentity, image: Dataset, pixels: NDArray[np.uint8], index: int, *, jpeg: bool) -> bytes:
    image.Rows, image.Columns = pixels.shape[:2]
    image.SamplesPerPixel = 3
    image.PlanarConfiguration = 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelRepresentation = 0
    if not jpeg:
        image.PhotometricInterpretation = "RGB"
        data = np.ascontiguousarray(pixels).tobytes()
        image.PixelData = data + b"\0" * (len(data) % 2)
        return _part10(identity, image, index, ExplicitVRLittleEndian)
    compressed = io.BytesIO()
    Image.fromarray(pixels).save(compressed, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2")
    image.PhotometricInterpretation = "YBR_FULL_422"
    image.LossyImageCompression = "01"
    image.LossyImageCompressionRatio = round(pixels.size / len(compressed.getvalue()), 2)
    image.LossyImageCompressionMethod = "ISO_10918_1"
    image.PixelData = encapsulate([compressed.getvalue()])
    return _part10(identity, image, index, JPEGBaseline8Bit)


def _part10(identity: PhantomIdentity, image: Dataset, index: int, transfer_syntax: UID) -> bytes:
    uid = UID(identity.uid(f"image {index + 1}"))
    image.SOPInstanceUID = uid
    image.InstanceNumber = index + 1
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = _IMPLEMENTATION_UID
    meta.ImplementationVersionName = "SIMILIS"
    buffer = io.BytesIO()
    file = FileDataset("", image, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
