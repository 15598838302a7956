"""What the listener needs to know of an object: read from its header, identity already left out."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from services.listener import elements
from services.listener.answers import Outcome, RefusedObjectError
from services.listener.terms import BODY_PARTS, MODALITIES
from shared.ids import is_valid_uid
from shared.pseudonym import Pseudonyms

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_DATE: Final = 0x00080020
_MODALITY: Final = 0x00080060
_PATIENT_ID: Final = 0x00100020
_ISSUER_OF_PATIENT_ID: Final = 0x00100021
_PATIENT_BIRTH_DATE: Final = 0x00100030
_PATIENT_SEX: Final = 0x00100040
_PATIENT_AGE: Final = 0x00101010
_BODY_PART_EXAMINED: Final = 0x00180015
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_NUMBER_OF_FRAMES: Final = 0x00280008
_ROWS: Final = 0x00280010
_COLUMNS: Final = 0x00280011
# Pixel Data Provider URL; Float, Double Float and integer Pixel Data.
_PIXELS: Final = (0x00287FE0, 0x7FE00008, 0x7FE00009, 0x7FE00010)

_WANTED: Final = frozenset(
    {
        _SOP_CLASS_UID,
        _SOP_INSTANCE_UID,
        _STUDY_DATE,
        _MODALITY,
        _PATIENT_ID,
        _ISSUER_OF_PATIENT_ID,
        _PATIENT_BIRTH_DATE,
        _PATIENT_SEX,
        _PATIENT_AGE,
        _BODY_PART_EXAMINED,
        _STUDY_INSTANCE_UID,
        _SERIES_INSTANCE_UID,
        _NUMBER_OF_FRAMES,
        _ROWS,
        _COLUMNS,
        *_PIXELS,
    }
)
_SEPARATORS: Final = str.maketrans("", "", " _-")
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])")
_DAYS: Final = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_MAX_FRAMES: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ObjectHeader:
    """An object's place, kind and size, with a pseudonym where the patient stood."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str | None
    study_date: str | None
    number_of_frames: int
    patient_pseudonym: str
    sex: str | None
    age_band: str | None


@dataclass(frozen=True, slots=True, repr=False)
class PatientIdentity:
    """Whose object it is, for the crosswalk alone. It has no representation that a log could show."""

    issuer: str
    patient_id: str


def read_header(
    dataset: elements.Source, transfer_syntax_uid: str, pseudonyms: Pseudonyms, *, max_bytes: int
) -> tuple[ObjectHeader, PatientIdentity]:
    """The header of a data set that was read from its first to its last element, and the patient it names.

    Raises:
        RefusedObjectError: the data set is truncated or malformed, or lacks a usable UID.
    """
    found = elements.walk(dataset, transfer_syntax_uid, _WANTED, max_bytes=max_bytes)
    little = transfer_syntax_uid != elements.EXPLICIT_VR_BIG_ENDIAN
    study = _uid(found, _STUDY_INSTANCE_UID, "Study Instance UID")
    study_date = _date(_text(found, _STUDY_DATE))
    sex = _text(found, _PATIENT_SEX).upper()
    identity = PatientIdentity(_text(found, _ISSUER_OF_PATIENT_ID), _text(found, _PATIENT_ID))
    header = ObjectHeader(
        sop_class_uid=_uid(found, _SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_uid(found, _SOP_INSTANCE_UID, "SOP Instance UID"),
        study_instance_uid=study,
        series_instance_uid=_uid(found, _SERIES_INSTANCE_UID, "Series Instance UID"),
        modality=_modality(found),
        body_part=_body_part(found),
        study_date=study_date,
        number_of_frames=_frames(found, little=little),
        patient_pseudonym=pseudonyms.of(
            issuer=identity.issuer, patient_id=identity.patient_id, study_instance_uid=study
        ),
        sex=sex if sex in ("M", "F", "O") else None,
        age_band=age_band(_text(found, _PATIENT_AGE), _date(_text(found, _PATIENT_BIRTH_DATE)), study_date),
    )
    return header, identity


def age_band(age: str, birth_date: str | None, study_date: str | None) -> str | None:
    """The ten-year band of Patient's Age (such as 061Y) or, without one, of two dates YYYYMMDD."""
    if match := _AGE.fullmatch(age.upper()):
        years = int(int(match[1]) * _DAYS[match[2]] / _DAYS["Y"])
    elif birth_date and study_date:
        born, studied = (date(int(day[:4]), int(day[4:6]), int(day[6:])) for day in (birth_date, study_date))
        years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
        if years < 0:
            return None
    else:
        return None
    decade = years // 10 * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def _text(found: Mapping[int, bytes], tag: int) -> str:
    """A value as text without its padding; identifiers are ASCII nearly always, so no character set is applied."""
    raw = found.get(tag, b"").strip(b" \0")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _uid(found: Mapping[int, bytes], tag: int, name: str) -> str:
    value = _text(found, tag)
    if not value:
        raise RefusedObjectError(Outcome.MALFORMED, f"{name} is missing")
    if not is_valid_uid(value):
        raise RefusedObjectError(Outcome.MALFORMED, f"{name} is not a UID")
    return value


def _modality(found: Mapping[int, bytes]) -> str:
    """Modality if it is a defined term, or else OT: free text could name a patient."""
    term = _first(found, _MODALITY)
    return term if term in MODALITIES else "OT"


def _body_part(found: Mapping[int, bytes]) -> str | None:
    """Body Part Examined if, but for separators, it is a defined term: free text could name a patient."""
    term = _first(found, _BODY_PART_EXAMINED).translate(_SEPARATORS)
    return term if term in BODY_PARTS else None


def _first(found: Mapping[int, bytes], tag: int) -> str:
    """The first value of a code string."""
    return _text(found, tag).split("\\")[0].strip().upper()


def _date(value: str) -> str | None:
    """A date as YYYYMMDD; also from the YYYY.MM.DD of old objects."""
    digits = value.replace(".", "")
    try:
        date.fromisoformat(digits)
    except ValueError:
        return None
    return digits if len(digits) == 8 and digits.isdigit() else None


def _frames(found: Mapping[int, bytes], *, little: bool) -> int:
    """How many image frames the object has; 0 if it is no image."""
    if not any(tag in found for tag in _PIXELS):
        return 0
    for tag in (_ROWS, _COLUMNS):
        raw = found.get(tag, b"")
        if len(raw) < 2 or struct.unpack("<H" if little else ">H", raw[:2])[0] == 0:
            return 0
    try:
        frames = int(_text(found, _NUMBER_OF_FRAMES) or "1")
    except ValueError:
        return 1
    return min(max(frames, 1), _MAX_FRAMES)
