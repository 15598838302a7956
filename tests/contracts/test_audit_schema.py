"""Records of the audit log against their published schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.listener.answers import Outcome
from services.listener.audit_messages import Messages, Peer

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "audit" / "v1.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
MESSAGES = Messages(ae_title="SIMILIS", source_id="node-1")
TEXT = st.text(max_size=70)


def every_message(
    peer: Peer, *, why: str = "calling-ae-title", uid: str = "1.2", pseudonym: str = "a" * 32
) -> Iterator[dict[str, Any]]:
    for started in (True, False):
        yield MESSAGES.application(NOW, started=started)
        yield MESSAGES.recording(NOW, started=started, outcome=8, description="3 audit records were lost")
    yield MESSAGES.accepted(NOW, peer)
    yield MESSAGES.refused(NOW, peer, why)
    yield MESSAGES.refused(NOW, peer, why, repeated=7)
    for outcome in Outcome:
        yield from MESSAGES.transferred(NOW, peer, {(uid, pseudonym, uid, outcome): 2})
    yield from MESSAGES.committed(NOW, peer, uid, {(uid, pseudonym, uid, 0): 1, (uid, pseudonym, uid, 0x0112): 1})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "peer", [Peer(""), Peer("10.1.2.3"), Peer("2001:db8::1", "CT1", "SIMILIS"), Peer("10.1.2.3", "CT1", "", "0" * 64)]
)
def test_every_record_keeps_to_the_schema(peer: Peer) -> None:
    for message in every_message(peer):
        VALIDATOR.validate(message)


@settings(deadline=None)
@given(address=TEXT, calling=TEXT, called=TEXT, fingerprint=TEXT, why=TEXT, uid=TEXT, pseudonym=TEXT)
def test_whatever_comes_from_outside_keeps_to_the_schema(
    address: str, calling: str, called: str, fingerprint: str, why: str, uid: str, pseudonym: str
) -> None:
    peer = Peer(address, calling, called, fingerprint)
    for message in every_message(peer, why=why, uid=uid, pseudonym=pseudonym):
        VALIDATOR.validate(message)


def test_the_schema_lets_no_identity_through() -> None:
    [record] = MESSAGES.transferred(NOW, Peer("10.1.2.3", "CT1"), {("1.2", "a" * 32, "1.2.3", Outcome.STORED): 1})
    assert VALIDATOR.is_valid(record)
    for spoil in (
        {"ParticipantObjectID": "DOE^JOHN"},
        {"ParticipantObjectID": "4711"},
        {"ParticipantObjectName": "DOE^JOHN"},
    ):
        spoiled = deepcopy(record)
        spoiled["ParticipantObjectIdentification"][1] |= spoil
        assert not VALIDATOR.is_valid(spoiled), spoil


@pytest.mark.parametrize("name", sorted(next(every_message(Peer("10.1.2.3", "CT1")))))
def test_the_schema_misses_what_is_left_out(name: str) -> None:
    record = next(every_message(Peer("10.1.2.3", "CT1")))
    del record[name]
    assert not VALIDATOR.is_valid(record)
