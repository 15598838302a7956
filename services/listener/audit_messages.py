"""Audit messages by the Audit Trail Message Format Profile: PS3.15 section A.5, as JSON.

Names and codes are those of the XML schema in A.5.1; elements that may repeat are lists, and the
values of ParticipantObjectDetail are plain text rather than base64. Codes are of PS3.16 CID 400 to
404. `schemas/audit/v1.json` describes the records.

A patient is named by a pseudonym and by nothing else: ParticipantObjectID of a patient is one, or
<none>.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from services.listener.access import normal_address
from services.listener.answers import Outcome
from shared.ids import is_valid_uid

log = logging.getLogger(__name__)

Message = dict[str, Any]
Objects = Mapping[tuple[str, str, str, Outcome], int]
"""Study Instance UID, patient's pseudonym, SOP Class UID and outcome to a number of objects; "" is unknown."""
Committed = Mapping[tuple[str, str, str, int], int]
"""As `Objects`, with a Failure Reason (0008,1197) in the outcome's place; 0 where it is committed."""

NONE: Final = "<none>"
SUCCESS: Final = 0
MINOR: Final = 4
SERIOUS: Final = 8

_MEANINGS: Final = MappingProxyType(
    {
        110100: "Application Activity",
        110104: "DICOM Instances Transferred",
        110113: "Security Alert",
        110120: "Application Start",
        110121: "Application Stop",
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
# A.5.3.7: C where the receiver did not hold the instances, R where it did and changed nothing.
_TRANSFERRED: Final = MappingProxyType(
    {
        Outcome.STORED: ("C", SUCCESS),
        Outcome.SET_ASIDE: ("C", SUCCESS),
        Outcome.DUPLICATE: ("R", SUCCESS),
        Outcome.DROPPED: ("C", MINOR),
        Outcome.REFUSED: ("C", MINOR),
        Outcome.CONFLICT: ("C", MINOR),
        Outcome.MISMATCH: ("C", MINOR),
        Outcome.MALFORMED: ("C", MINOR),
        Outcome.TOO_LARGE: ("C", MINOR),
        # These are not the sender's doing.
        Outcome.NO_SPACE: ("C", SERIOUS),
        Outcome.FAILED: ("C", SERIOUS),
    }
)
# Refusals that say nothing of who the peer is.
_DECISIONS: Final = frozenset({"called-ae-title", "association-limit", "peer-limit", "connection-limit"})

_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_WORD: Final = re.compile(r"[a-z0-9-]{1,40}")
_NO_AE_CHARACTER: Final = re.compile(r"[^ -\[\]-~]")
_MAX_AE_TITLE: Final = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection; what is not known yet is empty. A stranger may have chosen all of it."""

    address: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    certificate_sha256: str | None = None


class Messages:
    """Makes the messages of one process. `source_id` names its node, `ae_title` the listener."""

    def __init__(self, *, ae_title: str, source_id: str) -> None:
        self._ae_title = clean_ae_title(ae_title)
        self._source_id = source_id
        self._process_id = str(os.getpid())

    def application(self, when: datetime, *, started: bool) -> Message:
        """Application Activity: A.5.3.1."""
        event = _event(110100, "E", when, SUCCESS, 110120 if started else 110121)
        return self._message(event, [self._self(role=110150, is_requestor=False)])

    def recording(self, when: datetime, *, started: bool, outcome: int, description: str) -> Message:
        """The audit log itself began or ceased to record: a Security Alert, A.5.3.11."""
        event = _event(110113, "E", when, outcome, 110134 if started else 110133)
        return self._message(event, [self._self(is_requestor=True)], [self._alerted(self._source_id, description)])

    def accepted(self, when: datetime, peer: Peer) -> Message:
        """An association was accepted: a Security Alert of Node Authentication's success, A.5.3.11."""
        return self._alert(when, peer, SUCCESS, 110126, "association accepted")

    def refused(self, when: datetime, peer: Peer, why: str, *, repeated: int = 0) -> Message:
        """A connection or association was refused: a Security Alert, A.5.3.11.

        `repeated` counts the like ones that are not told of one by one.
        """
        word = why if _WORD.fullmatch(why) else "other"
        description = f"refused: {word}"
        if repeated:
            description += f", {repeated} more times"
        return self._alert(when, peer, MINOR, 110147 if word in _DECISIONS else 110126, description)

    def transferred(self, when: datetime, peer: Peer, objects: Objects) -> Iterator[Message]:
        """DICOM Instances Transferred, A.5.3.7: a message tells of one patient, and of one outcome (A.5.2)."""
        groups: dict[tuple[str, str, str, int], Counter[tuple[str, str]]] = {}
        for (study, pseudonym, sop_class, outcome), count in objects.items():
            action, indicator = _TRANSFERRED[outcome]
            group = groups.setdefault((study, pseudonym, action, indicator), Counter())
            group[sop_class, outcome.value] += count
        for (study, pseudonym, action, indicator), counts in groups.items():
            yield self._transfer(when, peer, study, pseudonym, action, indicator, counts, {})

    def committed(self, when: datetime, peer: Peer, transaction_uid: str, instances: Committed) -> Iterator[Message]:
        """Storage commitment was answered.

        A.5.3 has no message of its own for it: it is a transfer whose receiver already holds the
        instances (action R), told at the end of the transaction.
        """
        groups: dict[tuple[str, str, int], Counter[tuple[str, str]]] = {}
        for (study, pseudonym, sop_class, failure), count in instances.items():
            group = groups.setdefault((study, pseudonym, MINOR if failure else SUCCESS), Counter())
            group[sop_class, f"failure 0x{failure:04X}" if failure else "committed"] += count
        details = {"Storage Commitment Transaction UID": _uid(transaction_uid)}
        for (study, pseudonym, indicator), counts in groups.items():
            yield self._transfer(when, peer, study, pseudonym, "R", indicator, counts, details)

    def _transfer(
        self,
        when: datetime,
        peer: Peer,
        study: str,
        pseudonym: str,
        action: str,
        indicator: int,
        counts: Counter[tuple[str, str]],
        details: Mapping[str, str],
    ) -> Message:
        by_class: Counter[str] = Counter()
        by_word: Counter[str] = Counter()
        for (sop_class, word), count in counts.items():
            by_class[_uid(sop_class)] += count
            by_word[word] += count
        event = _event(110104, action, when, indicator)
        event["EventOutcomeDescription"] = ", ".join(f"{word}: {count}" for word, count in sorted(by_word.items()))
        study_object: Message = {
            "ParticipantObjectTypeCode": "2",
            "ParticipantObjectTypeCodeRole": "3",
            "ParticipantObjectIDTypeCode": _code(110180),
            "ParticipantObjectID": _uid(study),
            "SOPClass": [{"UID": uid, "NumberOfInstances": count} for uid, count in sorted(by_class.items())],
        }
        if shown := _details(peer) + [{"type": kind, "value": value} for kind, value in details.items()]:
            study_object["ParticipantObjectDetail"] = shown
        patient_object = {
            "ParticipantObjectTypeCode": "1",
            "ParticipantObjectTypeCodeRole": "1",
            "ParticipantObjectIDTypeCode": {
                "csd-code": "2",
                "codeSystemName": "RFC-3881",
                "originalText": "Patient Number",
            },
            "ParticipantObjectID": _pseudonym(pseudonym),
        }
        receiver = self._self(role=110152, is_requestor=False, ae_title=peer.called_ae_title)
        sender = _participant(peer, role=110153, is_requestor=True)
        return self._message(event, [sender, receiver], [study_object, patient_object])

    def _alert(self, when: datetime, peer: Peer, indicator: int, event_type: int, description: str) -> Message:
        alerted = self._alerted(_address(peer.address) or NONE, description)
        alerted["ParticipantObjectDetail"] += _details(peer)
        if called := clean_ae_title(peer.called_ae_title):
            alerted["ParticipantObjectDetail"].append({"type": "Called AE Title", "value": called})
        event = _event(110113, "E", when, indicator, event_type)
        return self._message(event, [self._self(is_requestor=True), _participant(peer, is_requestor=False)], [alerted])

    @staticmethod
    def _alerted(node_id: str, description: str) -> Message:
        return {
            "ParticipantObjectTypeCode": "2",
            "ParticipantObjectIDTypeCode": _code(110182),
            "ParticipantObjectID": node_id,
            "ParticipantObjectDetail": [{"type": "Alert Description", "value": description}],
        }

    def _self(self, *, is_requestor: bool, role: int | None = None, ae_title: str = "") -> Message:
        """This process: its id as logs of the system have it (A.5.2.1), and its AE title (A.5.2.2)."""
        participant: Message = {
            "UserID": self._process_id,
            "AlternativeUserID": f"AETITLES={clean_ae_title(ae_title) or self._ae_title}",
            "UserIsRequestor": is_requestor,
            "NetworkAccessPointTypeCode": "1",
            "NetworkAccessPointID": self._source_id,
        }
        if role is not None:
            participant["RoleIDCode"] = [_code(role)]
        return participant

    def _message(self, event: Message, participants: list[Message], objects: list[Message] | None = None) -> Message:
        message: Message = {
            "EventIdentification": event,
            "ActiveParticipant": participants,
            # A.5.1.2.1: an application server process.
            "AuditSourceIdentification": {
                "AuditSourceID": self._source_id,
                "AuditSourceTypeCode": [{"csd-code": "4"}],
            },
        }
        if objects:
            message["ParticipantObjectIdentification"] = objects
        return message


def clean_ae_title(ae_title: str) -> str:
    """At most 16 characters of those that an AE title may have (PS3.5 table 6.2-1), ? for others."""
    return _NO_AE_CHARACTER.sub("?", ae_title.strip(" \0"))[:_MAX_AE_TITLE].strip(" ")


def _event(event_id: int, action: str, when: datetime, indicator: int, event_type: int | None = None) -> Message:
    event: Message = {
        "EventID": _code(event_id),
        "EventActionCode": action,
        "EventDateTime": when.isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": indicator,
    }
    if event_type is not None:
        event["EventTypeCode"] = [_code(event_type)]
    return event


def _participant(peer: Peer, *, is_requestor: bool, role: int | None = None) -> Message:
    title, address = clean_ae_title(peer.calling_ae_title), _address(peer.address)
    participant: Message = {"UserID": title or address or NONE, "UserIsRequestor": is_requestor}
    if title:
        participant["AlternativeUserID"] = f"AETITLES={title}"
    if address:
        participant |= {"NetworkAccessPointTypeCode": "2", "NetworkAccessPointID": address}
    if role is not None:
        participant["RoleIDCode"] = [_code(role)]
    return participant


def _details(peer: Peer) -> list[dict[str, str]]:
    fingerprint = peer.certificate_sha256
    if fingerprint is None or not _FINGERPRINT.fullmatch(fingerprint):
        return []
    return [{"type": "TLS Certificate SHA-256", "value": fingerprint}]


def _code(value: int) -> dict[str, str]:
    return {"csd-code": str(value), "codeSystemName": "DCM", "originalText": _MEANINGS[value]}


def _address(address: str) -> str:
    return str(normal_address(address) or "")


def _uid(uid: str) -> str:
    return uid if is_valid_uid(uid) else NONE


def _pseudonym(pseudonym: str) -> str:
    if _PSEUDONYM.fullmatch(pseudonym):
        return pseudonym
    if pseudonym:
        # Whatever it is, it is not written down anywhere.
        log.error("something that is no pseudonym was kept out of the audit log")
    return NONE
