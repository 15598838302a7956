"""Audit messages by the Audit Trail Message Format Profile: PS3.15 section A.5, as JSON.

Names and codes are those of the XML schema in A.5.1; elements that may repeat are lists, and the
values of ParticipantObjectDetail are plain text rather than base64. `schemas/audit/v1.json`
describes the records.

A patient is named by a pseudonym and by nothing else: ParticipantObjectID of a patient is one, or
<none>.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from shared.addresses import normal_address
from shared.audit.codes import code, rfc_3881
from shared.ids import is_valid_uid

log = logging.getLogger(__name__)

Message = dict[str, Any]

NONE: Final = "<none>"

_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}")


class Source:
    """The process that records. `source_id` names its node, `name` the process as A.5.2.2 (AlternativeUserID) does."""

    def __init__(self, *, source_id: str, name: str) -> None:
        self._source_id = source_id
        self._name = name
        self._process_id = str(os.getpid())

    def application(self, when: datetime, *, started: bool) -> Message:
        """Application Activity: A.5.3.1."""
        about = event(110100, "E", when, 0, 110120 if started else 110121)
        return self.message(about, [self.participant(role=110150, is_requestor=False)])

    def recording(self, when: datetime, *, started: bool, outcome: int, description: str) -> Message:
        """The audit log itself began or ceased to record: a Security Alert, A.5.3.11."""
        about = event(110113, "E", when, outcome, 110134 if started else 110133)
        alert = alerted(self._source_id, description)
        return self.message(about, [self.participant(is_requestor=True)], [alert])

    def participant(self, *, is_requestor: bool, role: int | None = None, name: str = "") -> Message:
        """This process: its id as logs of the system have it (A.5.2.1), and its name."""
        participant: Message = {
            "UserID": self._process_id,
            "AlternativeUserID": name or self._name,
            "UserIsRequestor": is_requestor,
            "NetworkAccessPointTypeCode": "1",
            "NetworkAccessPointID": self._source_id,
        }
        if role is not None:
            participant["RoleIDCode"] = [code(role)]
        return participant

    def message(self, about: Message, participants: Sequence[Message], objects: Sequence[Message] = ()) -> Message:
        """A whole message of an event, its participants and participant objects."""
        message: Message = {
            "EventIdentification": about,
            "ActiveParticipant": list(participants),
            # A.5.1.2.1: an application server process.
            "AuditSourceIdentification": {
                "AuditSourceID": self._source_id,
                "AuditSourceTypeCode": [{"csd-code": "4"}],
            },
        }
        if objects:
            message["ParticipantObjectIdentification"] = list(objects)
        return message


def event(event_id: int, action: str, when: datetime, indicator: int, event_type: int | None = None) -> Message:
    """EventIdentification."""
    about: Message = {
        "EventID": code(event_id),
        "EventActionCode": action,
        "EventDateTime": when.isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": indicator,
    }
    if event_type is not None:
        about["EventTypeCode"] = [code(event_type)]
    return about


def alerted(node_id: str, description: str) -> Message:
    """What a Security Alert is about: a node, and what happened."""
    return {
        "ParticipantObjectTypeCode": "2",
        "ParticipantObjectIDTypeCode": code(110182),
        "ParticipantObjectID": node_id,
        "ParticipantObjectDetail": [detail("Alert Description", description)],
    }


def study(study_instance_uid: str) -> Message:
    """A study, named by its UID."""
    return {
        "ParticipantObjectTypeCode": "2",
        "ParticipantObjectTypeCodeRole": "3",
        "ParticipantObjectIDTypeCode": code(110180),
        "ParticipantObjectID": uid(study_instance_uid),
    }


def patient(pseudonym: str) -> Message:
    """A patient, named by the pseudonym; whatever is none is kept out."""
    return {
        "ParticipantObjectTypeCode": "1",
        "ParticipantObjectTypeCodeRole": "1",
        "ParticipantObjectIDTypeCode": rfc_3881(2, "Patient Number"),
        "ParticipantObjectID": _pseudonym(pseudonym),
    }


def detail(kind: str, value: str) -> dict[str, str]:
    """An element of ParticipantObjectDetail."""
    return {"type": kind, "value": value}


def network_address(address: str) -> str:
    """The address in its normal form, or nothing."""
    return str(normal_address(address) or "")


def uid(text: str) -> str:
    """The UID, or <none> where it is none."""
    return text if is_valid_uid(text) else NONE


def _pseudonym(pseudonym: str) -> str:
    if _PSEUDONYM.fullmatch(pseudonym):
        return pseudonym
    if pseudonym:
        # Whatever it is, it is not written down anywhere.
        log.error("something that is no pseudonym was kept out of the audit log")
    return NONE
