"""Codes of audit messages: PS3.16 CID 400 (events), 401 and 403 (types), 402 (roles), 404 (objects)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

MEANINGS: Final = MappingProxyType(
    {
        110100: "Application Activity",
        110103: "DICOM Instances Accessed",
        110104: "DICOM Instances Transferred",
        110112: "Query",
        110113: "Security Alert",
        110114: "User Authentication",
        110120: "Application Start",
        110121: "Application Stop",
        110122: "Login",
        110123: "Logout",
        110126: "Node Authentication",
        110133: "Audit Recording Stopped",
        110134: "Audit Recording Started",
        110147: "Access Control Decision",
        110150: "Application",
        110152: "Destination Role ID",
        110153: "Source Role ID",
        110180: "Study Instance UID",
        110182: "Node ID",
    }
)

SUCCESS: Final = 0
MINOR: Final = 4
SERIOUS: Final = 8


def code(value: int) -> dict[str, str]:
    """A coded value of the DICOM Controlled Terminology."""
    return {"csd-code": str(value), "codeSystemName": "DCM", "originalText": MEANINGS[value]}


def rfc_3881(value: int, meaning: str) -> dict[str, str]:
    """A coded value of RFC 3881."""
    return {"csd-code": str(value), "codeSystemName": "RFC-3881", "originalText": meaning}
