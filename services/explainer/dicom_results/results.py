"""All results of one explained frame: which kinds there are for this source and this map.

source, map, letterbox, overlay, facts ─▶ map on source pixels ─┬▶ Parametric Map   where the source has geometry
                                                                ├▶ SEG               where the map was checked
                                                                ├▶ Secondary Capture always
                                                                └▶ SR, which refers to all of them
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from services.explainer.dicom_results.capture import secondary_capture
from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult
from services.explainer.dicom_results.parametric_map import parametric_map
from services.explainer.dicom_results.placing import on_source_pixels, top_region
from services.explainer.dicom_results.report import report
from services.explainer.dicom_results.segmentation import segmentation
from services.explainer.dicom_results.source import one_kind_of_error, source_frame
from shared.events import Reliability
from shared.vision.transform import Letterbox

DEFAULT_REGION_SHARE = 0.5


@one_kind_of_error()
def frame_results(
    ds: Dataset,
    facts: ExplainedFrame,
    saliency: NDArray[np.float32],
    letterbox: Letterbox,
    overlay_png: bytes,
    *,
    window: tuple[float, float] | None = None,
    region_share: float = DEFAULT_REGION_SHARE,
) -> tuple[DicomResult, ...]:
    """Make the results of one explained frame, the report last. The same arguments give the same bytes.

    Args:
        ds: The source object, as archived; its pixels are not needed.
        facts: What the map belongs to. `facts.frame_number` is the frame of `ds`.
        saliency: float32 (H, W), the signed map on the model's input grid.
        letterbox: Where the frame lies on that grid.
        overlay_png: The picture of frame and map.
        window: Map values that viewers show as darkest and brightest: the ends of the overlay's colour scale, so
            that a flat map is not stretched here either. Unset: the frame's mean to its greatest value.
        region_share: The SEG holds what is at least mean + share x (greatest - mean).

    Raises:
        SourceError: the source is no image, has no such frame, breaks a rule that the results depend on, or the map
            or its letterbox does not fit.
    """
    source = source_frame(ds, facts.frame_number)
    placed = on_source_pixels(saliency, letterbox, source.rows, source.columns)
    least, mean, most = float(placed.min()), float(placed.mean(dtype=np.float64)), float(placed.max())
    pictures = []
    if source.has_geometry:
        pictures.append(parametric_map(source, facts, placed, window or (mean, most)))
    pictures.append(secondary_capture(source, facts, overlay_png))
    region = None
    # A contour of a map that may say nothing would be read as a finding.
    if facts.reliability is Reliability.CHECKED and (inside := top_region(placed, region_share)).any():
        region = segmentation(source, facts, inside, region_share)
    written = report(source, facts, (least, most), region, pictures, region_share)
    return (*pictures, *([] if region is None else [region]), written)
