"""The objects that are sent: synthetic CT slices, and one large multi-frame object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    generate_uid,
)

SLICE_SIDE_PX: Final = 512
SMALL_SIDE_PX: Final = 64
_NOISE_FIELDS: Final = 8


@dataclass(frozen=True, slots=True)
class Study:
    """A folder with the files of one study of one series."""

    folder: Path
    objects: int


def write_studies(folder: Path, *, studies: int, objects: int, side_px: int = SLICE_SIDE_PX) -> list[Study]:
    """Write `objects` CT slices of `side_px` squared 16-bit pixels, spread evenly over at most `studies` studies."""
    noise = _noise(side_px)
    written = []
    studies = min(studies, objects)
    for number in range(studies):
        study = Study(folder / f"study-{number:03d}", objects // studies + (number < objects % studies))
        study.folder.mkdir(parents=True)
        series = _series()
        for instance in range(study.objects):
            pixels = np.roll(noise[instance % len(noise)], number * 131 + instance, axis=1)
            _ct_slice(series, instance, pixels).save_as(study.folder / f"{instance:05d}.dcm", enforce_file_format=True)
        written.append(study)
    return written


def write_large_object(folder: Path, size_bytes: int) -> Study:
    """Write one uncompressed multi-frame object of about `size_bytes`, never holding more than a few frames."""
    noise = _noise(SLICE_SIDE_PX)
    frames = max(1, size_bytes // noise[0].nbytes)
    ds = _image(MultiFrameGrayscaleWordSecondaryCaptureImageStorage, _series(), 0, SLICE_SIDE_PX)
    ds.Modality, ds.ConversionType, ds.BurnedInAnnotation = "OT", "SYN", "NO"
    ds.NumberOfFrames, ds.PresentationLUTShape = frames, "IDENTITY"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    study = Study(folder / "large", 1)
    study.folder.mkdir(parents=True)
    path = study.folder / "00000.dcm"
    ds.save_as(path, enforce_file_format=True)
    with path.open("ab") as file:
        # Pixel Data is the last element: its header (PS3.5 section 7.1.2), then the frames one by one.
        file.write(b"\xe0\x7f\x10\x00OW\x00\x00" + (frames * noise[0].nbytes).to_bytes(4, "little"))
        for number in range(frames):
            file.write(noise[number % len(noise)].tobytes())
    return study


def shares(studies: Sequence[Study], associations: int) -> list[list[Study]]:
    """What each association sends: the studies dealt out in turn."""
    return [list(studies[number::associations]) for number in range(min(associations, len(studies)))]


def _noise(side_px: int) -> list[NDArray[np.int16]]:
    """A bright disc under noise, (side_px, side_px) each: as hard to compress as a real slice."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[0:side_px, 0:side_px] - side_px / 2
    disc = 1000.0 * (np.hypot(rows, columns) < side_px / 3)
    return [(disc + generator.normal(0, 40, (side_px, side_px))).astype("<i2") for _ in range(_NOISE_FIELDS)]


def _series() -> Dataset:
    """What the objects of one study and series share, without any real person."""
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    ds.PatientName, ds.PatientID = "Synthetic^Benchmark", f"BENCH-{ds.StudyInstanceUID[-8:]}"
    ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.SeriesNumber, ds.Manufacturer = "1", 1, "Similis"
    ds.StudyDate, ds.StudyTime = "20240101", "120000"
    return ds


def _ct_slice(series: Dataset, instance: int, pixels: NDArray[np.int16]) -> Dataset:
    ds = _image(CTImageStorage, series, instance, pixels.shape[0])
    ds.Modality, ds.ImageType, ds.AcquisitionNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    ds.PixelRepresentation = 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.KVP = 0, 1, 120
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 1
    ds.ImagePositionPatient = [0, 0, instance]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PatientPosition, ds.PositionReferenceIndicator = "HFS", ""
    ds.PixelData = pixels.tobytes()
    return ds


def _image(sop_class_uid: str, series: Dataset, instance: int, side_px: int) -> Dataset:
    ds = Dataset(series)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.InstanceNumber = instance + 1
    ds.Rows = ds.Columns = side_px
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    return ds
