"""From what highdicom built to the object as stored: true references, the study's identity, fixed dates, bytes."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from highdicom._standard_utils import get_module_attribute_map
from pydicom import DataElement, Dataset
from pydicom.charset import python_encoding
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian

from services.explainer.dicom_results.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    derived_uid,
    local_time,
)
from services.explainer.dicom_results.source import SourceFrame
from shared.events import ResultKind

# PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.1.3, C.7.2.3: what all objects of a study say of patient and study.
_IDENTITY_MODULES: Final = (
    "patient",
    "general-study",
    "patient-study",
    "clinical-trial-subject",
    "clinical-trial-study",
)
# Type 2 there: always present.
_ALWAYS: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
# highdicom's own idea of now.
_DATED: Final = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("ContentDate", "ContentTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)
_UTF_8: Final = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class DicomResult:
    """A finished object.

    Attributes:
        kind: What it is.
        sop_class_uid: Its SOP class.
        sop_instance_uid: Its SOP Instance UID.
        series_instance_uid: Its series, in the source's study.
        data: The Part 10 file, Explicit VR Little Endian.
        sha256: Of `data`, hex.
    """

    kind: ResultKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    data: bytes
    sha256: str


def finished(built: Dataset, kind: ResultKind, source: SourceFrame, moment: datetime) -> DicomResult:
    """Complete and encode `built`, which is changed by it. The same arguments give the same bytes."""
    _restore_references(built, source)
    _fix_dimensions(built)
    built.pop("ContributingEquipmentSequence", None)  # highdicom copies the scanner's: not ours to hand on
    for element in identity_of(source.ds):
        built[element.tag] = element
    for keyword in _ALWAYS:
        if keyword not in built:
            setattr(built, keyword, "")
    if "TimezoneOffsetFromUTC" in source.ds:
        built.TimezoneOffsetFromUTC = source.ds.TimezoneOffsetFromUTC
    date, time = local_time(moment, source.ds)
    built.SeriesDate, built.SeriesTime = date, time
    for day, clock in _DATED:
        if day in built:
            setattr(built, day, date)
            setattr(built, clock, time)
    _choose_character_set(built, source.ds)
    data = _part10(built)
    return DicomResult(
        kind=kind,
        sop_class_uid=str(built.SOPClassUID),
        sop_instance_uid=str(built.SOPInstanceUID),
        series_instance_uid=str(built.SeriesInstanceUID),
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def identity_of(source: Dataset) -> Iterator[DataElement]:
    """The elements by which a PACS files an object under patient and study, as the source has them."""
    attributes = get_module_attribute_map()
    for module in _IDENTITY_MODULES:
        for attribute in attributes[module]:
            keyword = attribute["keyword"]
            if attribute["path"] or keyword not in source:
                continue
            element = copy.deepcopy(source[keyword])
            if element.VR == "SQ":
                for item in element.value:
                    item.remove_private_tags()
            yield element


def _restore_references(built: Dataset, source: SourceFrame) -> None:
    """Give references to the stand-in the true SOP class, and source images their frame number."""
    for item in _items(built):
        if item.get("ReferencedSOPInstanceUID") == source.sop_instance_uid:
            item.ReferencedSOPClassUID = source.sop_class_uid
        for image in item.get("SourceImageSequence", ()):
            if source.is_multiframe and image.ReferencedSOPInstanceUID == source.sop_instance_uid:
                image.ReferencedFrameNumber = source.number


def _items(ds: Dataset) -> Iterator[Dataset]:
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _items(item)


def _fix_dimensions(built: Dataset) -> None:
    """highdicom draws this UID at random."""
    if "DimensionOrganizationSequence" not in built:
        return
    uid = derived_uid(built.SOPInstanceUID, "dimensions")
    for item in (*built.DimensionOrganizationSequence, *built.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = uid


def _choose_character_set(built: Dataset, source: Dataset) -> None:
    """The source's own where it holds all text; UTF-8 where a class's name needs more, or the source's is none."""
    declared = source.get("SpecificCharacterSet")
    names = [declared] if isinstance(declared, str) else list(declared or [])
    texts = [str(element.value) for item in _items(built) for element in item if element.VR in _TEXT]
    if all(value.isascii() for value in texts):
        names = [name for name in names if name] if all(name in python_encoding for name in names) else []
    elif not names or len(names) > 1 or not all(_holds(value, names[0]) for value in texts):
        names = [_UTF_8]
    if names:
        built.SpecificCharacterSet = names if len(names) > 1 else names[0]
    else:
        built.pop("SpecificCharacterSet", None)


_TEXT: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})


def _holds(value: str, character_set: str) -> bool:
    try:
        value.encode(python_encoding.get(character_set, "ascii"))
    except UnicodeEncodeError:
        return False
    return True


def _part10(built: Dataset) -> bytes:
    meta = built.file_meta
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = UID(built.SOPInstanceUID)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = io.BytesIO()
    dcmwrite(buffer, built, enforce_file_format=True)
    return buffer.getvalue()
