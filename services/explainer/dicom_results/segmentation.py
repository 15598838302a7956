"""The region that weighed most as a binary Segmentation (PS3.3 A.51), with the algorithm that made it.

The region is `placing.top_region`. Without a Frame of Reference the Standard ties each pixel to the source's by
the Derivation Image functional group (PS3.3 A.51.5.1), so this kind exists for every source.
"""

from __future__ import annotations

import json

import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from services.explainer.dicom_results.context import series_context
from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult, finished
from services.explainer.dicom_results.identity import SERIES_NUMBERS, derived_uid, instance_uid, series_uid
from services.explainer.dicom_results.source import SourceFrame
from services.explainer.dicom_results.vocabulary import (
    MANUFACTURER,
    MODEL_NAME,
    NOTICE,
    SALIENT_REGION,
    SERIAL_NUMBER,
    coding_schemes,
    content_description,
    description,
    text,
)
from shared.events import ResultKind

# Says where a map is high, and nothing of what lies there.
_CATEGORY = Code("309825002", "SCT", "Spatial and Relational Concept")


def segmentation(source: SourceFrame, facts: ExplainedFrame, region: NDArray[np.bool_], share: float) -> DicomResult:
    """Write the region.

    Args:
        source: The explained frame.
        facts: What the map belongs to.
        region: (rows, columns), True within the region.
        share: The threshold it was made by.

    Raises:
        ValueError: the region is empty.
    """
    if not region.any():
        raise ValueError("the region is empty")
    uid = instance_uid(facts, source.ds, ResultKind.SEGMENTATION, share)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=text(f"{NOTICE}: weighed for {facts.label}"),
        segmented_property_category=_CATEGORY,
        segmented_property_type=SALIENT_REGION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=text(facts.method),
            family=codes.DCM.ArtificialIntelligence,
            version=text(facts.software_version),
            source=MANUFACTURER,
            parameters={"json": json.dumps(algorithm_inputs(facts) | {"region_share": share}, sort_keys=True)},
        ),
        tracking_uid=derived_uid(uid, "region"),
        tracking_id=tracking_id(facts),
    )
    built = Segmentation(
        source_images=[source.header],
        pixel_array=region.astype(np.uint8)[None],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=series_uid(facts, ResultKind.SEGMENTATION),
        series_number=SERIES_NUMBERS[ResultKind.SEGMENTATION],
        sop_instance_uid=uid,
        instance_number=facts.rank,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=text(facts.software_version),
        device_serial_number=SERIAL_NUMBER,
        content_label="SALIENT_REGION",
        content_description=content_description(facts, "region"),
        series_description=description(facts, "top region of saliency"),
        coding_schemes=coding_schemes(),
    )
    built.update(series_context(source, has_side=False))
    return finished(built, ResultKind.SEGMENTATION, source, facts.diagnosed_at)


def tracking_id(facts: ExplainedFrame) -> str:
    """What SEG and report call the region by."""
    return text(f"{facts.task} {facts.label} frame {facts.frame_number}")


def algorithm_inputs(facts: ExplainedFrame) -> dict[str, object]:
    """What reproduces the map, by name."""
    return {
        "backbone": facts.backbone_id,
        "head": facts.head_id,
        "mode": facts.mode,
        "seed": facts.seed,
        **({"variant": facts.variant} if facts.variant else {}),
        **{f"sha256 of {name}": value for name, value in facts.hashes.items()},
    }
