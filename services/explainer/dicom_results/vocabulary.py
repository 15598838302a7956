"""Codes and short texts. Private ones have the scheme 99SIMILIS (PS3.16 section 8.2): none names a disease."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from services.explainer.dicom_results.facts import SCHEME, ExplainedFrame
from shared.events import Reliability, ResultKind
from shared.own_results import MODEL_NAME as MODEL_NAME

NOTICE: Final = "RESEARCH USE ONLY"
ON_REQUEST: Final = "ON REQUEST"
_FLAGS: Final = {
    Reliability.CHECKED: "",
    Reliability.NOT_RELIABLE: "NOT RELIABLE",
    Reliability.UNKNOWN: "RELIABILITY UNKNOWN",
}
MANUFACTURER: Final = "Similis"
SERIAL_NUMBER: Final = "0"

NO_UNITS: Final = Code("1", "UCUM", "no units")
SALIENCY: Final = Code("SALIENCY", SCHEME, "Saliency, signed, not normalised")
SALIENT_REGION: Final = Code("SALIENT-REGION", SCHEME, "Region that weighed most for a class")
RELIABILITY: Final = Code("RELIABILITY", SCHEME, "Reliability of the saliency map")
VERDICTS: Final = {
    Reliability.CHECKED: Code("CHECKED", SCHEME, "Leads chance by more than maps of random weights"),
    Reliability.NOT_RELIABLE: Code("NOT-RELIABLE", SCHEME, "Not reliable"),
    Reliability.UNKNOWN: Code("UNKNOWN", SCHEME, "Not known"),
}
FRAME_PROBABILITY: Final = Code("P-FRAME", SCHEME, "Probability of the finding, this frame")
STUDY_PROBABILITY: Final = Code("P-STUDY", SCHEME, "Probability of the finding, study")
INSERTION: Final = Code("INSERTION", SCHEME, "Insertion AUC of the map")
DELETION: Final = Code("DELETION", SCHEME, "Deletion AUC of the map")
RANDOM_INSERTION: Final = Code("INSERTION-RANDOM", SCHEME, "Insertion AUC of a random order")
RANDOM_DELETION: Final = Code("DELETION-RANDOM", SCHEME, "Deletion AUC of a random order")
MAP_LEAST: Final = Code("MAP-MIN", SCHEME, "Least value of the map in the frame")
MAP_MOST: Final = Code("MAP-MAX", SCHEME, "Greatest value of the map in the frame")
PICTURES: Final = {
    ResultKind.PARAMETRIC_MAP: Code("MAP", SCHEME, "Saliency map"),
    ResultKind.SECONDARY_CAPTURE: Code("OVERLAY", SCHEME, "Overlay of frame and saliency map"),
}
IMAGING: Final = Code("363679005", "SCT", "Imaging procedure")

# PS3.3 section 8.3: other meanings of the same code are allowed; viewers find the report by its value.
REPORT_TITLE: Final = Code("126000", "DCM", f"{NOTICE} - Imaging Measurement Report")

_SPACE: Final = re.compile(r"[\s\\\x00-\x1f\x7f]+")


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """What 99SIMILIS is, for the object that uses it."""
    return [
        CodingSchemeIdentificationItem(
            SCHEME, name="Similis private codes", responsible_organization="Similis. Research use only"
        )
    ]


def finding_code(facts: ExplainedFrame) -> Code:
    """The explained class's code, as its task has it; without one a private code made of its name."""
    if facts.finding is None:
        name = f"{facts.task}|{facts.label}"
        return Code(f"CLASS-{hashlib.sha256(name.encode()).hexdigest()[:10].upper()}", SCHEME, text(facts.label))
    return Code(text(facts.finding.value, 16), text(facts.finding.scheme, 16), text(facts.finding.meaning))


def flagged_notice(facts: ExplainedFrame) -> str:
    """Research use, and unless the map was checked, that the map may not be relied upon."""
    return " - ".join(filter(None, (NOTICE, _FLAGS[facts.reliability])))


def full_notice(facts: ExplainedFrame) -> str:
    """The same, and whether somebody asked for the map: it is none that the task's policy chose."""
    return flagged_notice(facts) + ("" if facts.request_id is None else f" - {ON_REQUEST}")


def description(facts: ExplainedFrame, what: str) -> str:
    """A Series Description: research use first, then whether the map is reliable, who wanted it, what it is."""
    return text(f"{full_notice(facts)} - {what}, {facts.task}")


def content_description(facts: ExplainedFrame, what: str) -> str:
    """A Content Description: the same, of one object."""
    return text(f"{full_notice(facts)}: {facts.method} {what} for {facts.label}")


def text(value: str, longest: int = 64) -> str:
    """`value` as a string of VR LO (SH, with 16): no control characters, no backslash, cut to its length."""
    return _SPACE.sub(" ", value).strip()[:longest].rstrip()
