"""The map as a Parametric Map (PS3.3 A.75): float32, on the source's pixels, in the source's Frame of Reference.

The IOD needs a Frame of Reference and Pixel Measures: sources without them get none.
"""

from __future__ import annotations

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import DerivedPixelContrastValues, ImageFlavorValues, ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray

from services.explainer.dicom_results.context import frame_anatomy, series_context
from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult, finished
from services.explainer.dicom_results.identity import SERIES_NUMBERS, instance_uid, series_uid
from services.explainer.dicom_results.source import SourceFrame
from services.explainer.dicom_results.vocabulary import (
    MANUFACTURER,
    MODEL_NAME,
    NO_UNITS,
    SALIENCY,
    SERIAL_NUMBER,
    coding_schemes,
    content_description,
    description,
    text,
)
from shared.events import ResultKind


def parametric_map(
    source: SourceFrame, facts: ExplainedFrame, placed: NDArray[np.float32], window: tuple[float, float]
) -> DicomResult:
    """Write the map.

    Args:
        source: A frame with geometry.
        facts: What the map belongs to.
        placed: float32 (rows, columns), the map at the source's pixels.
        window: Values that viewers are told to show as the darkest and the brightest.

    Raises:
        ValueError: the source has no geometry.
    """
    if not source.has_geometry:
        raise ValueError("a Parametric Map needs a Frame of Reference, and the source has none")
    low, high = window
    mapping = RealWorldValueMapping(
        lut_label="SALIENCY",
        lut_explanation=text(f"{facts.method} saliency for {facts.label}, as computed"),
        unit=NO_UNITS,
        value_range=(float(placed.min()), float(placed.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=SALIENCY,
    )
    built = ParametricMap(
        source_images=[source.header],
        pixel_array=placed[None],
        series_instance_uid=series_uid(facts, ResultKind.PARAMETRIC_MAP),
        series_number=SERIES_NUMBERS[ResultKind.PARAMETRIC_MAP],
        sop_instance_uid=instance_uid(facts, source.ds, ResultKind.PARAMETRIC_MAP),
        instance_number=facts.rank,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=text(facts.software_version),
        device_serial_number=SERIAL_NUMBER,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=(low + high) / 2,
                window_width=max(high - low, float(np.finfo(np.float32).tiny)),
                # PS3.3 C.11.2.1.3: the only one that takes windows narrower than 1.
                voi_lut_function="LINEAR_EXACT",
            )
        ],
        content_label="SALIENCY_MAP",
        content_description=content_description(facts, "map"),
        image_flavor=ImageFlavorValues.VOLUME,
        derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
        series_description=description(facts, "saliency map"),
        coding_schemes=coding_schemes(),
    )
    if (anatomy := frame_anatomy(source)) is not None:
        built.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    # Where frames say on which side they lie, the series does not.
    built.update(series_context(source, has_side=anatomy is None))
    return finished(built, ResultKind.PARAMETRIC_MAP, source, facts.diagnosed_at)
