"""The listener's audit messages: PS3.15 section A.5; `shared.audit.messages` has what they are made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from services.listener.answers import Outcome
from shared.audit import Message, Source
from shared.audit import messages as parts
from shared.audit.codes import MINOR, SERIOUS, SUCCESS, code
from shared.audit.messages import NONE, network_address, uid

Objects = Mapping[tuple[str, str, str, Outcome], int]
"""Study Instance UID, patient's pseudonym, SOP Class UID and outcome to a number of objects; "" is unknown."""
Committed = Mapping[tuple[str, str, str, int], int]
"""As `Objects`, with a Failure Reason (0008,1197) in the outcome's place; 0 where it is committed."""

CODES: Final = (
    110100,
    110104,
    110113,
    110120,
    110121,
    110126,
    110133,
    110134,
    110147,
    110150,
    110152,
    110153,
    110180,
    110182,
)
"""The codes that the listener's messages use."""

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


def source(*, ae_title: str, source_id: str) -> Source:
    """The listener as the one that records, known by its AE title (A.5.2.2)."""
    return Source(source_id=source_id, name=_titled(ae_title))


class Messages:
    """Makes the messages of one process."""

    def __init__(self, source: Source) -> None:
        self._source = source

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
        details = {"Storage Commitment Transaction UID": uid(transaction_uid)}
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
            by_class[uid(sop_class)] += count
            by_word[word] += count
        event = parts.event(110104, action, when, indicator)
        event["EventOutcomeDescription"] = ", ".join(f"{word}: {count}" for word, count in sorted(by_word.items()))
        study_object = parts.study(study)
        study_object["SOPClass"] = [{"UID": one, "NumberOfInstances": count} for one, count in sorted(by_class.items())]
        if shown := _details(peer) + [parts.detail(kind, value) for kind, value in details.items()]:
            study_object["ParticipantObjectDetail"] = shown
        called = clean_ae_title(peer.called_ae_title)
        receiver = self._source.participant(role=110152, is_requestor=False, name=_titled(called) if called else "")
        sender = _participant(peer, role=110153, is_requestor=True)
        return self._source.message(event, [sender, receiver], [study_object, parts.patient(pseudonym)])

    def _alert(self, when: datetime, peer: Peer, indicator: int, event_type: int, description: str) -> Message:
        alerted = parts.alerted(network_address(peer.address) or NONE, description)
        alerted["ParticipantObjectDetail"] += _details(peer)
        if called := clean_ae_title(peer.called_ae_title):
            alerted["ParticipantObjectDetail"].append(parts.detail("Called AE Title", called))
        event = parts.event(110113, "E", when, indicator, event_type)
        participants = [self._source.participant(is_requestor=True), _participant(peer, is_requestor=False)]
        return self._source.message(event, participants, [alerted])


def clean_ae_title(ae_title: str) -> str:
    """At most 16 characters of those that an AE title may have (PS3.5 table 6.2-1), ? for others."""
    return _NO_AE_CHARACTER.sub("?", ae_title.strip(" \0"))[:_MAX_AE_TITLE].strip(" ")


def _titled(ae_title: str) -> str:
    return f"AETITLES={clean_ae_title(ae_title)}"


def _participant(peer: Peer, *, is_requestor: bool, role: int | None = None) -> Message:
    title, address = clean_ae_title(peer.calling_ae_title), network_address(peer.address)
    participant: Message = {"UserID": title or address or NONE, "UserIsRequestor": is_requestor}
    if title:
        participant["AlternativeUserID"] = _titled(title)
    if address:
        participant |= {"NetworkAccessPointTypeCode": "2", "NetworkAccessPointID": address}
    if role is not None:
        participant["RoleIDCode"] = [code(role)]
    return participant


def _details(peer: Peer) -> list[dict[str, str]]:
    fingerprint = peer.certificate_sha256
    if fingerprint is None or not _FINGERPRINT.fullmatch(fingerprint):
        return []
    return [parts.detail("TLS Certificate SHA-256", fingerprint)]
