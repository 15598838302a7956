"""Synthetic DICOM objects with chosen pixels, in chosen encodings."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
COMPRESSED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)


def image(pixels: np.ndarray, *, bits_stored: int | None = None, modality: str = "MR", **elements: Any) -> Dataset:
    """An image object around (H, W), (N, H, W) or, with PhotometricInterpretation set to a colour, (H, W, 3)."""
    is_colour = elements.get("SamplesPerPixel", 1) == 3
    frames = pixels.reshape(-1, *pixels.shape[-3 if is_colour else -2 :])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = modality
    dataset.PatientID = "PHANTOM"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    if pixels.dtype.kind == "f":
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        setattr(dataset, "FloatPixelData" if pixels.dtype.itemsize == 4 else "DoubleFloatPixelData", pixels.tobytes())
    else:
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        dataset.BitsStored = bits_stored or dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def item(**elements: Any) -> Dataset:
    """A sequence item."""
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def part10(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The object's file, its pixels encoded in `syntax`."""
    if syntax in COMPRESSED:
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        if dataset.BitsAllocated > 8:
            words = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}")
            dataset.PixelData = words.byteswap().tobytes()
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
        return buffer.getvalue()
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    """The object's file as it stands."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(dataset: Dataset, syntax: str, frames: list[bytes]) -> bytes:
    """The object's file with these code streams as its frames."""
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return saved(dataset)
