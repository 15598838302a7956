"""What a derived image takes over from its source's series: body part, side, orientation."""

from __future__ import annotations

import copy

from highdicom._standard_utils import get_anatomic_region_map
from pydicom import Dataset

from services.explainer.dicom_results.source import SourceFrame


def series_context(source: SourceFrame, *, has_side: bool) -> Dataset:
    """The elements to add to a derived image.

    Args:
        source: The explained frame.
        has_side: Whether the kind's series says on which side a paired body part lies (PS3.3 C.7.3.1, Type 2C).
            Frame Anatomy says it better, and a Segmentation says it of its segments.
    """
    context = Dataset()
    for keyword in ("BodyPartExamined", "ImageLaterality", "PatientOrientation"):
        _copy(source.ds, context, keyword)
    if not source.has_geometry and "PatientOrientation" not in context:
        context.PatientOrientation = ""  # Type 2C, PS3.3 C.7.6.1
    if not has_side:
        context.pop("ImageLaterality", None)
    elif "ImageLaterality" not in context and not _is_single(source):
        context.Laterality = ""
        _copy(source.ds, context, "Laterality")
    return context


def frame_anatomy(source: SourceFrame) -> Dataset | None:
    """An item of the Frame Anatomy functional group (PS3.3 C.7.6.16.2.8): the body part, coded by PS3.16 annex L.

    None where the source says nothing that has a code: none is made up.
    """
    item = Dataset()
    if source.ds.get("AnatomicRegionSequence"):
        _copy(source.ds, item, "AnatomicRegionSequence")
    elif (known := _region(source)) is not None:
        item.AnatomicRegionSequence = [known[0]]
    else:
        return None
    side = str(source.ds.get("ImageLaterality") or source.ds.get("Laterality") or "U")
    item.FrameLaterality = side if side in ("R", "L", "B", "U") else "U"
    return item


def _region(source: SourceFrame) -> tuple[Dataset, bool] | None:
    """The code of Body Part Examined, and whether there are two of it."""
    known: tuple[Dataset, bool] | None = get_anatomic_region_map().get(
        str(source.ds.get("BodyPartExamined", "")).upper()
    )
    return known


def _is_single(source: SourceFrame) -> bool:
    known = _region(source)
    return known is not None and not known[1]


def _copy(source: Dataset, target: Dataset, keyword: str) -> None:
    if source.get(keyword):
        target[keyword] = copy.deepcopy(source[keyword])
