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
from services.listener.audit_messages import CODES, Messages, Peer, source
from services.query.audit.actions import ACTIONS
from services.query.audit.messages import Client
from services.query.audit.messages import Messages as QueryMessages
from services.query.audit.trail import Touched
from shared.addresses import normal_address
from shared.audit import Source

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "audit" / "v1.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
LISTENER = source(ae_title="SIMILIS", source_id="node-1")
MESSAGES = Messages(LISTENER)
QUERY = Source(source_id="node-1", name="similis-query")
QUERY_MESSAGES = QueryMessages(QUERY)
TEXT = st.text(max_size=70)


def every_message(
    peer: Peer, *, why: str = "calling-ae-title", uid: str = "1.2", pseudonym: str = "a" * 32
) -> Iterator[dict[str, Any]]:
    for started in (True, False):
        yield LISTENER.application(NOW, started=started)
        yield LISTENER.recording(NOW, started=started, outcome=8, description="3 audit records were lost")
    yield MESSAGES.accepted(NOW, peer)
    yield MESSAGES.refused(NOW, peer, why)
    yield MESSAGES.refused(NOW, peer, why, repeated=7)
    for outcome in Outcome:
        yield from MESSAGES.transferred(NOW, peer, {(uid, pseudonym, uid, outcome): 2})
    yield from MESSAGES.committed(NOW, peer, uid, {(uid, pseudonym, uid, 0): 1, (uid, pseudonym, uid, 0x0112): 1})


def every_query_message(client: Client, *, uid: str = "1.2", pseudonym: str = "a" * 32) -> Iterator[dict[str, Any]]:
    for started in (True, False):
        yield QUERY.application(NOW, started=started)
        yield QUERY.recording(NOW, started=started, outcome=8, description="3 audit records were lost")
    trail = {uid: Touched(was_asked_for=True), "1.3": Touched()}
    for action in ACTIONS.values():
        for status in (200, 403, 404, 422, 503):
            if action.code == "E":
                yield QUERY_MESSAGES.queried(NOW, client, action, status, trail, studies_max=2)
            else:
                yield QUERY_MESSAGES.accessed(NOW, client, action, status, (uid, pseudonym), repeated=3)
    yield QUERY_MESSAGES.signed(NOW, client, 401, is_in=True, repeated=3)
    yield QUERY_MESSAGES.signed(NOW, client, 204, is_in=False)
    yield QUERY_MESSAGES.refused(NOW, client)


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


@pytest.mark.parametrize(
    "client", [Client("", ""), Client("key:reader", "2001:db8::1"), Client("oidc:Jürgen", "10.1.2.3")]
)
def test_every_record_of_the_query_service_keeps_to_the_schema(client: Client) -> None:
    for message in every_query_message(client):
        VALIDATOR.validate(message)


@settings(deadline=None, max_examples=20)
@given(
    principal=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=128),
    address=TEXT,
    uid=TEXT,
    pseudonym=TEXT,
)
def test_whatever_comes_from_a_client_keeps_to_the_schema(
    principal: str, address: str, uid: str, pseudonym: str
) -> None:
    client = Client(principal, str(normal_address(address) or ""))
    for message in every_query_message(client, uid=uid, pseudonym=pseudonym):
        VALIDATOR.validate(message)


def test_the_conformance_statement_lists_the_codes_that_the_listener_uses() -> None:
    def codes(value: Any) -> Iterator[int]:
        if isinstance(value, dict):
            if value.get("codeSystemName") == "DCM":
                yield int(value["csd-code"])
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                yield from codes(one)

    refusals = (MESSAGES.refused(NOW, Peer("10.1.2.3"), why) for why in ("calling-ae-title", "peer-limit"))
    assert set(CODES) == {code for one in (*every_message(Peer("10.1.2.3")), *refusals) for code in codes(one)}


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
