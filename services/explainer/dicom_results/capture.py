"""The overlay as Secondary Capture (PS3.3 A.8.1): for a PACS that shows neither Parametric Map nor SEG."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from highdicom import CoordinateSystemNames
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import ExplicitVRLittleEndian

from services.explainer.dicom_results.context import series_context
from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult, finished
from services.explainer.dicom_results.identity import SERIES_NUMBERS, instance_uid, series_uid
from services.explainer.dicom_results.source import SourceFrame
from services.explainer.dicom_results.vocabulary import (
    MANUFACTURER,
    MODEL_NAME,
    SERIAL_NUMBER,
    description,
    flagged_notice,
    full_notice,
    text,
)
from shared.events import ResultKind

_BAND_PX: Final = 34
_TEXT_PX: Final = 17
_BACKGROUND: Final = (12, 12, 14)
_INK: Final = (255, 214, 90)


def secondary_capture(source: SourceFrame, facts: ExplainedFrame, overlay_png: bytes) -> DicomResult:
    """Write the overlay. A notice stands above the picture in its pixels, whatever the overlay itself says.

    Raises:
        ValueError: the overlay is no picture.
    """
    pixels = with_notice(overlay_png, facts)
    built = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system=CoordinateSystemNames.PATIENT,
        study_instance_uid=source.ds.StudyInstanceUID,
        series_instance_uid=series_uid(facts, ResultKind.SECONDARY_CAPTURE),
        series_number=SERIES_NUMBERS[ResultKind.SECONDARY_CAPTURE],
        sop_instance_uid=instance_uid(facts, source.ds, ResultKind.SECONDARY_CAPTURE),
        instance_number=facts.rank,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "P"),  # replaced below: a page of picture and words has none
        transfer_syntax_uid=ExplicitVRLittleEndian,
        manufacturer_model_name=MODEL_NAME,
        software_versions=text(facts.software_version),
        device_serial_number=SERIAL_NUMBER,
        series_description=description(facts, "overlay"),
    )
    built.update(series_context(source, has_side=True))
    built["PatientOrientation"].value = ""
    built.ConversionType = "WSD"
    built.ImageType = ["DERIVED", "SECONDARY"]
    words = f"{full_notice(facts)}. {facts.reliability_reason} {facts.method} map for {facts.label} ({facts.task})"
    built.ImageComments = text(words, 10240)
    # Words over the pixels name a class, never a patient; what was burned into the source is still there.
    if source.ds.get("BurnedInAnnotation"):
        built.BurnedInAnnotation = source.ds.BurnedInAnnotation
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if source.ds.get(keyword):
            setattr(built, keyword, source.ds.get(keyword))
    built.SourceImageSequence = [source.reference()]
    return finished(built, ResultKind.SECONDARY_CAPTURE, source, facts.diagnosed_at)


def with_notice(overlay_png: bytes, facts: ExplainedFrame) -> NDArray[np.uint8]:
    """The overlay as (H, W, 3) with a band above that says research use, and that the map is not reliable if so."""
    try:
        overlay = Image.open(io.BytesIO(overlay_png)).convert("RGB")
    except OSError as error:
        raise ValueError("the overlay is no picture") from error
    page = Image.new("RGB", (overlay.width, overlay.height + _BAND_PX), _BACKGROUND)
    page.paste(overlay, (0, _BAND_PX))
    font = ImageFont.load_default(_TEXT_PX)
    ImageDraw.Draw(page).text(
        (overlay.width / 2, _BAND_PX / 2), flagged_notice(facts), font=font, fill=_INK, anchor="mm"
    )
    return np.asarray(page, np.uint8)
