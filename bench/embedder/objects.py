"""CT-like slices as DICOM bytes, in the encodings that are compared. Synthetic: no patient, no real anatomy."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Pixels = NDArray[np.uint16]

SYNTAXES: Final[dict[str, UID]] = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "HTJ2K": HTJ2KLossless,
}
_ENCODERS: Final[dict[str, Callable[[Pixels], bytes]]] = {
    "JPEG-LS": lambda pixels: bytes(imagecodecs.jpegls_encode(pixels)),
    "JPEG 2000": lambda pixels: bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True)),
    "HTJ2K": lambda pixels: bytes(imagecodecs.htj2k_encode(pixels)),
}


def slices(count: int, syntax: str, *, side_px: int = 512) -> list[bytes]:
    """DICOM Part-10 bytes of 12-bit CT slices, each another one."""
    return [_encoded(_slice(number, side_px), syntax) for number in range(count)]


@cache
def _slice(seed: int, side_px: int) -> Pixels:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j]
    body = np.hypot(x / rng.uniform(0.7, 0.9), y / rng.uniform(0.5, 0.7)) < 1
    hu = np.where(body, 40 + 30 * np.sin(rng.uniform(8, 20) * x + 4 * np.sin(rng.uniform(4, 9) * y)), -1000.0)
    for _ in range(12):
        spot = np.hypot(x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.5, 0.5)) < rng.uniform(0.02, 0.15)
        hu[spot & body] = rng.uniform(-700, 300)
    noisy = hu + rng.normal(0, 12, hu.shape)
    return np.clip(noisy + 1024, 0, 4095).astype(np.uint16)


def _encoded(pixels: Pixels, syntax: str) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax == "RLE":
        dataset.compress(RLELossless)
    elif encode := _ENCODERS.get(syntax):
        meta.TransferSyntaxUID = SYNTAXES[syntax]
        dataset.PixelData = encapsulate([encode(pixels)])
        dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
