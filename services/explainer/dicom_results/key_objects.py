"""The evidence frames of a diagnosis as a Key Object Selection (PS3.3 A.35.4, TID 2010): where to look first."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom import Dataset
from pydicom.sr.codedict import codes

from services.explainer.dicom_results.facts import ExplainedFrame
from services.explainer.dicom_results.finish import DicomResult, finished
from services.explainer.dicom_results.identity import SERIES_NUMBERS, derived_uid
from services.explainer.dicom_results.report import device_context
from services.explainer.dicom_results.source import SourceError, SourceFrame, one_kind_of_error
from services.explainer.dicom_results.vocabulary import MANUFACTURER, MODEL_NAME, NOTICE, SERIAL_NUMBER, text
from shared.events import ResultKind


@one_kind_of_error()
def key_objects(frames: Sequence[SourceFrame], facts: ExplainedFrame) -> DicomResult:
    """Write the selection.

    Args:
        frames: The evidence frames, of one study, the strongest first; several may be of one object.
        facts: Of any explained frame of the diagnosis: only what all share is taken.

    Raises:
        SourceError: there is no frame, they are of several studies, or one breaks a rule.
    """
    if not frames:
        raise SourceError("no evidence frame")
    if len({frame.ds.StudyInstanceUID for frame in frames}) > 1:
        raise SourceError("the evidence frames are of several studies")
    numbers: dict[str, list[int]] = {}
    by_object: dict[str, SourceFrame] = {}
    for frame in frames:
        by_object.setdefault(frame.sop_instance_uid, frame)
        numbers.setdefault(frame.sop_instance_uid, []).append(frame.number)
    evidence = [_true_header(frame) for frame in by_object.values()]
    content = KeyObjectSelection(
        document_title=codes.DCM.OfInterest,
        referenced_objects=evidence,
        observer_device_context=device_context(facts),
        description=f"{NOTICE}. Frames that weighed most for {text(facts.label)}, task {facts.task}, strongest first.",
    )
    for item in content[0].ContentSequence:
        for reference in item.get("ReferencedSOPSequence", ()):
            uid = reference.ReferencedSOPInstanceUID
            if by_object[uid].is_multiframe:
                reference.ReferencedFrameNumber = numbers[uid]
    named = [f"{uid}:{number}" for uid, of_object in numbers.items() for number in of_object]
    shared = (facts.diagnosis_event_id, facts.task, facts.label, facts.software_version, "key objects")
    built = KeyObjectSelectionDocument(
        evidence=evidence,
        content=content,
        series_instance_uid=derived_uid("series", *shared),
        series_number=SERIES_NUMBERS[ResultKind.KEY_OBJECT_SELECTION],
        sop_instance_uid=derived_uid("instance", *shared, *named),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=text(facts.software_version),
        device_serial_number=SERIAL_NUMBER,
        series_description=text(f"{NOTICE} - evidence frames, {facts.task}"),
    )
    return finished(built, ResultKind.KEY_OBJECT_SELECTION, frames[0], facts.diagnosed_at)


def _true_header(frame: SourceFrame) -> Dataset:
    """Documents refer to objects only, so highdicom may know the true SOP class."""
    header = Dataset()
    header.update(frame.header)
    header.SOPClassUID = frame.sop_class_uid
    return header
