"""The structured report, TID 1500 (PS3.16): finding, algorithm, faithfulness, reliability, and what they refer to.

It is unverified and preliminary: no person has seen it. Its codes are private (99SIMILIS) where the task's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from services.explainer.dicom_results import vocabulary as words
from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult, finished
from services.explainer.dicom_results.identity import (
    DEVICE_UID,
    SERIES_NUMBERS,
    derived_uid,
    instance_uid,
    series_uid,
)
from services.explainer.dicom_results.segmentation import algorithm_inputs, tracking_id
from services.explainer.dicom_results.source import SourceFrame
from shared.events import Reliability, ResultKind

# CID 100 names procedures by modality and region; of the two only the modality is sure here.
_PROCEDURES: Final = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MR unspecified body region"),
}

_VERDICTS: Final = {
    Reliability.CHECKED: "it passed the check against random weights, no more",
    Reliability.NOT_RELIABLE: "NOT RELIABLE, do not read this map",
    Reliability.UNKNOWN: "UNKNOWN, do not rely on this map",
}


def report(
    source: SourceFrame,
    facts: ExplainedFrame,
    map_range: tuple[float, float],
    region: DicomResult | None,
    pictures: Sequence[DicomResult],
    region_share: float,
) -> DicomResult:
    """Write the report.

    Args:
        source: The explained frame.
        facts: What the map belongs to.
        map_range: Least and greatest value of the map in the frame.
        region: The SEG, if there is one.
        pictures: Other results that it refers to: Parametric Map, Secondary Capture.
        region_share: The threshold of the SEG, also where there is none.
    """
    uid = instance_uid(facts, source.ds, ResultKind.MEASUREMENT_REPORT, region_share)
    group = _group(source, facts, map_range, region, uid)
    content = group[0].ContentSequence
    content.extend(_comment(line) for line in statements(facts))
    content.extend(_picture(picture) for picture in pictures)
    document = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=device_context(facts)),
        procedure_reported=_PROCEDURES.get(str(source.ds.get("Modality", "")), words.IMAGING),
        imaging_measurements=[group],
        title=words.REPORT_TITLE,
    )
    results = [*pictures] if region is None else [*pictures, region]
    built = ComprehensiveSR(
        evidence=[source.header, *(_evidence(source, result) for result in results)],
        content=document[0],
        series_instance_uid=series_uid(facts, ResultKind.MEASUREMENT_REPORT),
        series_number=SERIES_NUMBERS[ResultKind.MEASUREMENT_REPORT],
        sop_instance_uid=uid,
        instance_number=facts.rank,
        manufacturer=words.MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer_model_name=words.MODEL_NAME,
        software_versions=words.text(facts.software_version),
        device_serial_number=words.SERIAL_NUMBER,
        series_description=words.description(facts, "report"),
        coding_schemes=words.coding_schemes(),
    )
    return finished(built, ResultKind.MEASUREMENT_REPORT, source, facts.diagnosed_at)


def device_context(facts: ExplainedFrame) -> ObserverContext:
    """The observer: this software, no person."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID,
            name=words.MODEL_NAME,
            manufacturer_name=words.MANUFACTURER,
            model_name=f"{words.MODEL_NAME} {words.text(facts.software_version)}"[:64],
        ),
    )


def statements(facts: ExplainedFrame) -> list[str]:
    """What the report says in words."""
    verdict = _VERDICTS[facts.reliability]
    lines = [
        f"{words.NOTICE}. Made by software, seen by nobody; not for diagnosis.",
        f"Reliability of the map: {verdict}. {facts.reliability_reason}",
    ]
    if facts.request_id is not None:
        lines.append(f"Made {words.ON_REQUEST} {facts.request_id}: no map that the task's policy chose.")
    if facts.classes:
        shares = "; ".join(f"{c.label} {c.probability:.4f}" for c in facts.classes)
        lines.append(f"Calibrated probabilities of the study, task {facts.task}: {shares}")
    if facts.faithfulness is None:
        lines.append("Faithfulness of the map: not measured.")
    else:
        lines.append(f"Insertion and deletion curves have {facts.faithfulness.steps} steps.")
    return lines


def _group(
    source: SourceFrame, facts: ExplainedFrame, map_range: tuple[float, float], region: DicomResult | None, uid: str
) -> Any:
    """TID 1410 of the region, or TID 1501 of the frame where there is no region."""
    known = {**algorithm_inputs(facts), "masks": facts.mask_count, **facts.parameters}
    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(uid=derived_uid(uid, "finding"), identifier=tracking_id(facts)),
        "finding_type": CodedConcept.from_code(words.finding_code(facts)),
        "algorithm_id": AlgorithmIdentification(
            name=words.text(facts.method),
            version=words.text(facts.software_version),
            parameters=[f"{name}: {value}" for name, value in known.items()],
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=words.MANUFACTURER,
        ),
        "measurements": [_number(name, value) for name, value in _figures(facts, map_range)],
        "qualitative_evaluations": [
            QualitativeEvaluation(name=words.RELIABILITY, value=words.VERDICTS[facts.reliability])
        ],
    }
    reference = (source.sop_class_uid, source.sop_instance_uid, source.frame_numbers)
    if region is None:
        return MeasurementsAndQualitativeEvaluations(
            source_images=[SourceImageForMeasurementGroup(*reference)], **common
        )
    segment = ReferencedSegmentationFrame(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=region.sop_instance_uid,
        frame_number=1,
        segment_number=1,
        source_image=SourceImageForSegmentation(*reference),
    )
    # PS3.3 C.18.4: a reference names frames or segments, not both.
    del segment[0].ReferencedSOPSequence[0].ReferencedFrameNumber
    return PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)


def _figures(facts: ExplainedFrame, map_range: tuple[float, float]) -> list[tuple[Code, float]]:
    figures = [(words.FRAME_PROBABILITY, facts.frame_probability)]
    if facts.study_probability is not None:
        figures.append((words.STUDY_PROBABILITY, facts.study_probability))
    if (measured := facts.faithfulness) is not None:
        figures += [
            (words.INSERTION, measured.insertion_auc),
            (words.RANDOM_INSERTION, measured.random_insertion_auc),
            (words.DELETION, measured.deletion_auc),
            (words.RANDOM_DELETION, measured.random_deletion_auc),
        ]
    return [*figures, (words.MAP_LEAST, map_range[0]), (words.MAP_MOST, map_range[1])]


def _number(name: Code, value: float) -> Measurement:
    # PS3.5 section 6.2: a DS has 16 characters at most.
    return Measurement(name=name, value=float(f"{value:.6g}"), unit=words.NO_UNITS)


def _comment(line: str) -> TextContentItem:
    return TextContentItem(
        name=codes.DCM.Comment, value=words.text(line, 1024), relationship_type=RelationshipTypeValues.CONTAINS
    )


def _picture(picture: DicomResult) -> ImageContentItem:
    return ImageContentItem(
        name=words.PICTURES[picture.kind],
        referenced_sop_class_uid=picture.sop_class_uid,
        referenced_sop_instance_uid=picture.sop_instance_uid,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _evidence(source: SourceFrame, result: DicomResult) -> Dataset:
    """What highdicom wants to know of a referenced result."""
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.ds.StudyInstanceUID, result.series_instance_uid
    ds.SOPClassUID, ds.SOPInstanceUID = result.sop_class_uid, result.sop_instance_uid
    return ds
