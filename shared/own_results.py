"""The DICOM objects that Similis itself makes: how they are told from what modalities send.

A PACS that gets them may send them back as late objects of their study. They are stored like any other, and never
embedded, judged or explained, or each round trip would bring forth the next.
"""

from __future__ import annotations

import io
from typing import Any, Final

from pydicom.filereader import read_partial
from pydicom.tag import Tag
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from shared.pixels.deflated import deflated_object
from shared.pixels.limits import PixelLimits

MODEL_NAME: Final = "Similis explainer"
"""Manufacturer's Model Name (0008,1090) of every result."""

_MODEL_NAME: Final = Tag("ManufacturerModelName")
_SOP_CLASSES: Final = frozenset(
    {
        ParametricMapStorage,
        SegmentationStorage,
        SecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        KeyObjectSelectionDocumentStorage,
    }
)


def may_be_own_result(sop_class_uid: str) -> bool:
    """Whether results have this SOP class: only then is it worth a look into the object."""
    return sop_class_uid in _SOP_CLASSES


def is_own_result(data: bytes) -> bool:
    """Whether a Part 10 file says that Similis made it; False if it cannot be read."""
    try:
        file: Any = deflated_object(data, PixelLimits()) or io.BytesIO(data)
        ds = read_partial(file, stop_when=lambda tag, _vr, _length: tag > _MODEL_NAME, specific_tags=[_MODEL_NAME])
        return str(ds.get("ManufacturerModelName", "")).strip() == MODEL_NAME
    except Exception:  # noqa: BLE001  (pydicom raises anything on damaged files, which the survey reports by itself)
        return False
