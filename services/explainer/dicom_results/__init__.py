"""DICOM results of an explained frame, for the source's own study. Research use only.

    `frame_results`   Parametric Map, SEG, Secondary Capture, SR TID 1500
    `key_objects`     Key Object Selection of the evidence frames, from `source_frame`s

Plain functions from data sets, arrays and `ExplainedFrame` to Part 10 bytes: docs/explainer-dicom.md.
"""

from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult
from services.explainer.dicom_results.key_objects import key_objects
from services.explainer.dicom_results.placing import grid_to_source
from services.explainer.dicom_results.results import DEFAULT_REGION_SHARE, frame_results
from services.explainer.dicom_results.source import SourceError, SourceFrame, source_frame, source_header

__all__ = [
    "DEFAULT_REGION_SHARE",
    "DicomResult",
    "ExplainedFrame",
    "SourceError",
    "SourceFrame",
    "frame_results",
    "grid_to_source",
    "key_objects",
    "source_frame",
    "source_header",
]
