"""The query service's audit messages: PS3.15 section A.5; `shared.audit.messages` has what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.query.audit.actions import Action
from services.query.audit.trail import Touched
from shared.audit import Message, Source
from shared.audit import messages as parts
from shared.audit.codes import MINOR, SERIOUS, SUCCESS, code, rfc_3881

ANONYMOUS: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, and from where; what is not known is empty."""

    principal: str
    address: str


class Messages:
    """Makes the messages of one process."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def accessed(
        self,
        when: datetime,
        client: Client,
        action: Action,
        status: int,
        study: tuple[str, str],
        *,
        repeated: int = 0,
    ) -> Message:
        """DICOM Instances Accessed, A.5.3.6, of one study and one patient: its UID, and the patient's pseudonym.

        `repeated` counts the like ones that are not told of one by one.
        """
        event = parts.event(110103, action.code, when, _indicator(status))
        event["EventOutcomeDescription"] = _outcome(status, repeated)
        accessed = parts.study(study[0])
        accessed["ParticipantObjectDetail"] = [parts.detail("Action", action.name)]
        participants = [_person(client, is_requestor=True), self._source.participant(is_requestor=False)]
        return self._source.message(event, participants, [accessed, parts.patient(study[1])])

    def queried(
        self,
        when: datetime,
        client: Client,
        action: Action,
        status: int,
        studies: Mapping[str, Touched],
        *,
        studies_max: int,
    ) -> Message:
        """Query, A.5.3.10, with the studies that were asked for and given.

        The Standard's message has the query itself; this one does not, since people write names into searches.
        """
        event = parts.event(110112, "E", when, _indicator(status))
        event["EventOutcomeDescription"] = _outcome(status, 0)
        criteria = {
            "ParticipantObjectTypeCode": "2",
            "ParticipantObjectTypeCodeRole": "24",
            "ParticipantObjectIDTypeCode": rfc_3881(10, "Search Criteria"),
            "ParticipantObjectID": action.name,
            "ParticipantObjectDetail": [parts.detail("Studies", str(len(studies)))],
        }
        named = []
        asked_first = sorted(studies.items(), key=lambda item: not item[1].was_asked_for)
        for uid, touched in asked_first[:studies_max]:
            study = parts.study(uid)
            study["ParticipantObjectDetail"] = [parts.detail("Place", "query" if touched.was_asked_for else "answer")]
            named.append(study)
        participants = [
            _person(client, is_requestor=True, role=110153),
            self._source.participant(is_requestor=False, role=110152),
        ]
        return self._source.message(event, participants, [criteria, *named])

    def signed(self, when: datetime, client: Client, status: int, *, is_in: bool, repeated: int = 0) -> Message:
        """User Authentication, A.5.3.12: somebody signed in or out, or showed no credentials that are good."""
        event = parts.event(110114, "E", when, _indicator(status), 110122 if is_in else 110123)
        event["EventOutcomeDescription"] = _outcome(status, repeated)
        participants = [_person(client, is_requestor=True), self._source.participant(is_requestor=False)]
        return self._source.message(event, participants)

    def refused(self, when: datetime, client: Client, *, repeated: int = 0) -> Message:
        """Somebody may not do what is about no study: a Security Alert, A.5.3.11."""
        description = f"refused: role{_more(repeated)}"
        event = parts.event(110113, "E", when, MINOR, 110147)
        participants = [self._source.participant(is_requestor=True), _person(client, is_requestor=False)]
        return self._source.message(event, participants, [parts.alerted(client.address or parts.NONE, description)])


def _person(client: Client, *, is_requestor: bool, role: int | None = None) -> Message:
    participant: Message = {"UserID": client.principal or ANONYMOUS, "UserIsRequestor": is_requestor}
    if client.address:
        participant |= {"NetworkAccessPointTypeCode": "2", "NetworkAccessPointID": client.address}
    if role is not None:
        participant["RoleIDCode"] = [code(role)]
    return participant


def _indicator(status: int) -> int:
    if status < 400:
        return SUCCESS
    return MINOR if status < 500 else SERIOUS


def _outcome(status: int, repeated: int) -> str:
    words = {401: "denied", 403: "denied", 404: "not found"}
    word = "success" if status < 400 else words.get(status, "failure")
    return f"{word}: {status}{_more(repeated)}"


def _more(repeated: int) -> str:
    return f", {repeated} more times" if repeated else ""
