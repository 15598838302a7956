"""Association negotiation as PS3.7 annex D and PS3.8 sections 7 and 9 have it, request by request."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from services.listener.negotiation import STORAGE_COMMITMENT
from services.listener.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from tests.conformance.kept import assert_as_sent
from tests.conformance.wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Request,
    Wire,
    echo_command,
    message,
    one_each,
    pdu,
    store_command,
)
from tests.services.listener.listener_harness import MR, Running, item, make_sample, wait_for

CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
ROLE, ASYNCHRONOUS, EXTENDED, COMMON_EXTENDED, IDENTITY, IDENTITY_ANSWER = 0x54, 0x53, 0x56, 0x57, 0x58, 0x59
ACCEPTED, USER_REJECTION, ABSTRACT_SYNTAX, TRANSFER_SYNTAX = 0, 1, 3, 4


def named(kind: int, uid: str, rest: bytes) -> bytes:
    """A user information item that begins with a UID and its length."""
    return item(kind, struct.pack(">H", len(uid)) + uid.encode() + rest)


def identity(kind: int, primary: bytes, secondary: bytes = b"", *, response: bool = False) -> bytes:
    """PS3.7 table D.3-14."""
    fields = struct.pack(">H", len(primary)) + primary + struct.pack(">H", len(secondary)) + secondary
    return item(IDENTITY, bytes([kind, response]) + fields)


def answered(listener: Running, request: Request) -> Wire:
    """An association for this request, over which an echo and an object have gone, and which was released."""
    sample = make_sample()
    with Wire.associate(listener, request) as wire:
        wire.send(one_each(message(1, echo_command(message_id=7))))
        wire.send(one_each(message(3, store_command(sample, message_id=8), sample.dataset)))
        for message_id in (7, 8):
            response = wire.response()
            assert (response.message_id, response.status) == (message_id, 0)
        wire.release()
    return wire


def results(wire: Wire) -> list[int]:
    """The results of the presentation contexts: PS3.8 table 9-18."""
    assert wire.accepted is not None
    return [context.result_reason for context in wire.accepted.presentation_context]


def test_the_answer_names_the_application_context_and_this_implementation(listener: Running) -> None:
    wire = answered(listener, Request(calling="A B", implementation_version="THEIRS_1"))
    assert wire.accepted is not None
    assert wire.accepted.application_context_name == "1.2.840.10008.3.1.1.1"
    # PS3.8 section 9.3.3: both titles go back as they came.
    assert wire.accepted.calling_ae_title.strip() == "A B"
    assert wire.accepted.called_ae_title.strip() == "SIMILIS"
    assert wire.user_item(0x51) == [struct.pack(">I", 131_072)]
    assert wire.user_item(0x52) == [IMPLEMENTATION_CLASS_UID.encode()]
    assert wire.user_item(0x55) == [IMPLEMENTATION_VERSION_NAME.encode()]


def test_an_implementation_without_a_version_name_is_served(listener: Running) -> None:
    answered(listener, Request(implementation_version=""))


@pytest.mark.parametrize("version", [1, 3, 0xFFFF])
def test_later_protocol_versions_are_served_by_the_one_that_is_known(listener: Running, version: int) -> None:
    """PS3.8 table 9-11: only bit 0 is tested, and bit 0 alone is answered."""
    wire = answered(listener, Request(version=version))
    assert wire.accepted is not None
    assert wire.accepted.protocol_version == 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(version=2), (1, 2, 2)),
        (Request(version=0), (1, 2, 2)),
        (Request(application_context="1.2.840.10008.3.1.1.2"), (1, 1, 2)),
        (Request(called="SOMEONE"), (1, 1, 7)),
        (Request(called="similis"), (1, 1, 7)),
        (Request(calling="STRANGER"), (1, 1, 3)),
    ],
    ids=["version 2", "version 0", "application context", "called title", "called title's case", "calling title"],
)
def test_requests_are_rejected_with_the_standards_source_and_reason(
    start_listener: Callable[..., Running], request_: Request, reason: tuple[int, int, int]
) -> None:
    """PS3.8 table 9-21."""
    listener = start_listener(access={"calling_ae_titles": ("WIRE",)})
    with Wire.connect(listener) as wire:
        kind, body = wire.ask(request_)
        assert (kind, tuple(body[1:])) == (ASSOCIATE_RJ, reason)
        assert wire.is_closed()


def test_associations_over_the_limit_are_rejected_as_for_now(start_listener: Callable[..., Running]) -> None:
    """A transient rejection by the presentation related function: local limit exceeded."""
    listener = start_listener(max_associations=2)
    with Wire.associate(listener) as first, Wire.associate(listener):
        with Wire.connect(listener) as third:
            kind, body = third.ask(Request())
            assert (kind, tuple(body[1:])) == (ASSOCIATE_RJ, (2, 3, 2))
        first.release()

        def is_let_in() -> bool:
            with Wire.connect(listener) as again:
                return again.ask(Request())[0] != ASSOCIATE_RJ

        wait_for(is_let_in)


def test_contexts_are_judged_one_by_one(listener: Running) -> None:
    contexts = [
        (VERIFICATION, (IMPLICIT,)),
        (MR, (EXPLICIT,)),
        (PATIENT_ROOT_FIND, (IMPLICIT,)),
        (CT, ("1.2.3.4",)),
        (CT, ("1.2.3.4", IMPLICIT)),
        ("1.2.826.0.1.3680043.2.1143.9", (EXPLICIT,)),
        (STORAGE_COMMITMENT, (EXPLICIT,)),
    ]
    wire = answered(listener, Request(contexts))
    assert results(wire) == [
        ACCEPTED,
        ACCEPTED,
        ABSTRACT_SYNTAX,
        TRANSFER_SYNTAX,
        ACCEPTED,
        ACCEPTED,
        ACCEPTED,
    ]


def test_an_association_without_any_accepted_context_is_accepted_all_the_same(listener: Running) -> None:
    """PS3.8 section 7.1.1.8: a result for each context, and none of them is the association's own."""
    with Wire.associate(listener, Request([(PATIENT_ROOT_FIND, (IMPLICIT,))])) as wire:
        assert results(wire) == [ABSTRACT_SYNTAX]
        wire.release()


def test_128_contexts_of_128_transfer_syntaxes_are_answered(listener: Running) -> None:
    many = (EXPLICIT, *(f"1.2.3.{number}" for number in range(126)), IMPLICIT)
    contexts = [(VERIFICATION, (IMPLICIT,)), (MR, (EXPLICIT,)), *((CT, many) for _ in range(126))]
    wire = answered(listener, Request(contexts))
    assert results(wire) == [ACCEPTED] * 128


def test_objects_come_over_whichever_context_fits(listener: Running) -> None:
    """PS3.8 section 7.1.1.13: several contexts of one abstract syntax stand side by side."""
    study = make_sample().study
    samples = [make_sample(study=study) for _ in range(3)]
    contexts = [(VERIFICATION, (IMPLICIT,)), *((MR, (EXPLICIT,)) for _ in range(3))]
    with Wire.associate(listener, Request(contexts)) as wire:
        for number, sample in enumerate(samples):
            wire.send(one_each(message(2 * number + 3, store_command(sample), sample.dataset)))
            assert wire.response().status == 0
    assert_as_sent(listener, *samples)


@pytest.mark.parametrize(("proposed", "answer"), [((1, 0), b"\1\0"), ((1, 1), b"\1\0")], ids=["SCU", "both"])
def test_a_requestor_that_may_be_the_scu_is(listener: Running, proposed: tuple[int, int], answer: bytes) -> None:
    """PS3.7 section D.3.3.4: its proposal to be the SCP is turned down."""
    wire = answered(listener, Request(user_items=named(ROLE, MR, bytes(proposed))))
    assert wire.user_item(ROLE) == [struct.pack(">H", len(MR)) + MR.encode() + answer]


@pytest.mark.parametrize("proposed", [(0, 1), (0, 0)], ids=["SCP", "neither"])
def test_a_requestor_that_will_not_be_the_scu_gets_no_context(listener: Running, proposed: tuple[int, int]) -> None:
    """No role is left for it, so the context itself is turned down (PS3.8 table 9-18: user-rejection)."""
    with Wire.associate(listener, Request(user_items=named(ROLE, MR, bytes(proposed)))) as wire:
        assert results(wire) == [ACCEPTED, USER_REJECTION]
        assert wire.user_item(ROLE) == []
        wire.send(one_each(message(1, echo_command())))
        assert wire.response().status == 0
        wire.release()


def test_roles_of_a_class_without_a_context_are_not_answered(listener: Running) -> None:
    wire = answered(listener, Request(user_items=named(ROLE, CT, b"\1\1")))
    assert wire.user_item(ROLE) == []


@pytest.mark.parametrize("offered", [b"\0\0\0\0\0\0", b"\2\0\3\0\1\0", b"\2"], ids=bytes.hex)
def test_extended_negotiation_tells_the_level_of_storage(listener: Running, offered: bytes) -> None:
    """PS3.4 table B.3-2: full storage (2), bit preserving signatures (3), nothing coerced (0)."""
    user_items = named(EXTENDED, MR, offered) + named(EXTENDED, VERIFICATION, offered) + named(EXTENDED, CT, offered)
    wire = answered(listener, Request(user_items=user_items))
    assert wire.user_item(EXTENDED) == [struct.pack(">H", len(MR)) + MR.encode() + b"\2\0\3\0\0\0"]


def test_common_extended_negotiation_is_taken_and_not_answered(listener: Running) -> None:
    """PS3.7 section D.3.3.6: it tells the acceptor of related classes, and has no answer."""
    service, related = b"1.2.840.10008.4.2", MR.encode()
    rest = struct.pack(">H", len(service)) + service
    rest += struct.pack(">H", len(related) + 2) + struct.pack(">H", len(related)) + related
    wire = answered(listener, Request(user_items=named(COMMON_EXTENDED, MR, rest)))
    assert wire.user_item(COMMON_EXTENDED) == []


@pytest.mark.parametrize("window", [(1, 1), (5, 5), (0, 0)])
def test_operations_stay_synchronous(listener: Running, window: tuple[int, int]) -> None:
    """PS3.7 section D.3.3.3: without an answer the window is 1, which every AE supports."""
    wire = answered(listener, Request(user_items=item(ASYNCHRONOUS, struct.pack(">HH", *window))))
    assert wire.user_item(ASYNCHRONOUS) in ([], [struct.pack(">HH", 1, 1)])


@pytest.mark.parametrize("response", [False, True], ids=["no response asked for", "response asked for"])
@pytest.mark.parametrize(
    ("kind", "primary", "secondary"),
    [(1, b"somebody", b""), (2, b"somebody", b"secret"), (3, b"ticket", b""), (4, b"<saml/>", b""), (5, b"a.b.c", b"")],
    ids=["name", "name and passcode", "Kerberos", "SAML", "JWT"],
)
def test_a_user_identity_is_neither_checked_nor_confirmed(
    listener: Running, kind: int, primary: bytes, secondary: bytes, response: bool
) -> None:
    """PS3.7 section D.3.3.7: an acceptor that does not know of identities gives no response.

    What becomes of the association is then the requestor's choice, also if it asked for one.
    """
    user_items = identity(kind, primary, secondary, response=response)
    wire = answered(listener, Request(user_items=user_items))
    assert wire.user_item(IDENTITY_ANSWER) == []


@pytest.mark.parametrize(
    "unknown",
    [item(0x5F, b"what comes later"), item(0x60, b""), item(IDENTITY_ANSWER, b"\0\0")],
    ids=["of a later edition", "empty", "an acceptor's"],
)
def test_user_information_that_is_not_known_is_ignored(listener: Running, unknown: bytes) -> None:
    """PS3.8 section D.2: a later edition's items are no reason to reject."""
    with_role = unknown + named(ROLE, MR, b"\1\0")
    wire = answered(listener, Request(user_items=with_role))
    assert len(wire.user_item(ROLE)) == 1


def test_items_that_are_not_known_are_ignored(listener: Running) -> None:
    """PS3.8 section 9.3.1."""
    request = Request().encode()
    body = request[6:] + item(0x60, b"what comes later")
    with Wire.connect(listener) as wire:
        wire.send(pdu(0x01, body))
        assert wire.read_pdu()[0] == ASSOCIATE_AC


def test_an_unknown_item_that_is_longer_than_the_request_is_an_abort(listener: Running) -> None:
    body = Request().encode()[6:] + b"\x60\0\1\0"
    with Wire.connect(listener) as wire:
        wire.send(pdu(0x01, body))
        kind, answer = wire.read_pdu()
        assert (kind, tuple(answer[2:])) == (ABORT, (2, 6))


def test_uids_that_are_padded_all_the_same_are_understood(listener: Running) -> None:
    """PS3.8 annex F pads none; old senders do."""
    contexts = [(f"{VERIFICATION}\0", (f"{IMPLICIT}\0",)), (f"{MR}\0", (f"{EXPLICIT}\0",))]
    answered(listener, Request(contexts, application_context="1.2.840.10008.3.1.1.1\0"))


def test_titles_of_16_characters_and_spaces_around_them_are_taken(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(ae_title="SIXTEEN-LETTERS-")
    answered(listener, Request(called="SIXTEEN-LETTERS-", calling="ANOTHER-16-CHARS"))
    answered(listener, Request(called="SIXTEEN-LETTERS-", calling=" SPACED"))


@pytest.mark.parametrize("titles", [("WIRE",), ("OTHER", "W*")])
def test_a_calling_title_on_the_list_is_let_in(start_listener: Callable[..., Running], titles: Sequence[str]) -> None:
    answered(start_listener(access={"calling_ae_titles": tuple(titles)}), Request())
