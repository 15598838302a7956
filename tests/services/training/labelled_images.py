"""Small labelled images to train on: spots and bars on backgrounds that differ from patient to patient."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from scipy import ndimage

from services.training.dataset.cases import Case, CaseImages
from services.training.features.case_features import CaseFeatures
from shared.pixels import Frame
from shared.vision.features import Features
from shared.vision.tasks import TaskDefinition

LABELS = ("normal", "spot", "bar")
FINDING = np.array([False, True, True])
SIDE = 48

DEFINITION = TaskDefinition.model_validate(
    {
        "name": "shapes",
        "title": "Shapes",
        "modalities": ["MR"],
        "body_parts": ["BRAIN"],
        "classes": [{"label": label, "is_finding": label != "normal"} for label in LABELS],
    }
)


def picture(seed: int, label: str) -> np.ndarray:
    """uint8 (48, 48): a class's shape on the background of the patient `seed`."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 4)
    image = 0.4 + 0.12 * smooth / smooth.std() + rng.normal(0, 0.02, (SIDE, SIDE))
    row, column = rng.integers(12, SIDE - 12, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    if label == "spot":
        image[(rows - row) ** 2 + (columns - column) ** 2 < 30] = 1.0
    elif label == "bar":
        image[np.abs(rows - row) < 2] = 1.0
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(pixels: np.ndarray, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def dicom(frames: Sequence[np.ndarray], *, uid: str, study: str, patient: str, **elements: object) -> bytes:
    """A (multi-frame) MR object of uint8 frames."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    values = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.1",
        "PatientID": patient,
        "Modality": "MR",
        "BodyPartExamined": "BRAIN",
        "InstanceNumber": "1",
        "Rows": SIDE,
        "Columns": SIDE,
        "NumberOfFrames": str(len(frames)),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "WindowCenter": "128",
        "WindowWidth": "256",
        **elements,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = np.stack(frames).tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_class_folders(folder: Path, count: int, first_seed: int = 0) -> Path:
    """`count` pictures of each class, each of a patient of its own."""
    for at, label in enumerate(LABELS):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed = first_seed + number * len(LABELS) + at
            (folder / label / f"{seed:04}.png").write_bytes(png(picture(seed, label)))
    return folder


def case_of(seed: int, label: str | None = None, *, data: bytes | None = None, **values: object) -> Case:
    """A case of one picture."""
    label = label or LABELS[seed % len(LABELS)]
    content = data if data is not None else png(picture(seed, label))
    values = {"study": f"s{seed}", "patient": f"p{seed}", **values}
    return Case(label=label, load=lambda: CaseImages((f"{values['study']}.png",), (content,)), **values)


def made_up(seed: int, *, width: int = 24, signal: float = 2.0, frames: int = 8, known: bool = True) -> CaseFeatures:
    """Features of noise; the class shows in three of the frames, along its own direction."""
    rng = np.random.default_rng(seed)
    label = LABELS[seed % len(LABELS)]
    joined = rng.normal(size=(frames, width)).astype(np.float32)
    shown = ["normal"] * frames
    if label != "normal":
        joined[2:5, LABELS.index(label)] += signal
        shown[2:5] = [label] * 3
    return CaseFeatures(
        case=Case(f"s{seed}", f"p{seed}", label, lambda: CaseImages((), ())),
        cls=joined[:, : width // 4],
        joined=joined,
        thumbnails=rng.random((frames, 32, 32, 3)).astype(np.float32),
        frame_labels=tuple(shown) if known else None,
        names=tuple(f"{seed}/{number}" for number in range(frames)),
        object_hashes=tuple(f"{seed}-{number}" for number in range(frames)),
        pixel_hashes=tuple(f"pixels {seed}-{number}" for number in range(frames)),
        subgroup={},
    )


class PlainEncoder:
    """A working fake of the backbone: fixed random filters on the frame, their responses pooled. No torch."""

    id = "plain@0-t1s48"
    dim = 16

    def __init__(self) -> None:
        self.frames_encoded = 0
        rng = np.random.default_rng(1)
        self._filters = rng.normal(size=(self.dim, 5, 5))

    def encode(self, frames: Sequence[Frame], /) -> Features:
        self.frames_encoded += len(frames)
        rows = np.stack([self._row(frame) for frame in frames]).astype(np.float32)
        return Features(rows[:, : self.dim], rows[:, self.dim :])

    def _row(self, frame: Frame) -> np.ndarray:
        pixels = frame.pixels if frame.pixels.ndim == 2 else frame.pixels.mean(axis=2)
        responses = [ndimage.convolve(pixels.astype(float), kernel, mode="nearest") for kernel in self._filters]
        stacked = np.stack(responses).reshape(self.dim, -1)
        return np.concatenate([stacked.std(axis=1), stacked.mean(axis=1), stacked.max(axis=1), stacked.min(axis=1)])
