"""Messages over an association: PDU sizes, fragments, order of requests, and every way to end it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.conformance.kept import assert_as_sent, entries
from tests.conformance.wire import (
    ABORT,
    C_ECHO_RQ,
    C_STORE_RQ,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RESPONSE,
    Request,
    Wire,
    abort,
    echo_command,
    message,
    one_each,
    pdu,
    store_command,
)
from tests.services.listener.listener_harness import Running, Sample, make_sample, wait_for

UNLIMITED = 0
LARGE = 3 << 20


def large_sample(size_bytes: int) -> Sample:
    """An object with a long private element behind its pixels."""
    sample = make_sample()
    private = struct.pack("<HH2s2xI", 0x7FE1, 0x0010, b"OB", size_bytes) + bytes(range(256)) * (size_bytes // 256)
    return Sample(sample.dataset + private, sample.study, sample.series, sample.sop)


def store_over(wire: Wire, stream: bytes) -> None:
    wire.send(stream)
    response = wire.response()
    assert (response.kind, response.status) == (C_STORE_RQ | RESPONSE, 0)


@pytest.mark.parametrize("max_pdu_bytes", [4096, 16_384, 131_072, 1 << 24, UNLIMITED])
def test_the_longest_pdu_is_told_and_taken(start_listener: Callable[..., Running], max_pdu_bytes: int) -> None:
    listener = start_listener(max_pdu_bytes=max_pdu_bytes)
    sample = large_sample(LARGE)
    with Wire.associate(listener) as wire:
        assert wire.user_item(0x51) == [struct.pack(">I", max_pdu_bytes)]
        fragment_bytes = max_pdu_bytes - 6 if max_pdu_bytes else LARGE * 2
        store_over(wire, one_each(message(3, store_command(sample), sample.dataset, fragment_bytes=fragment_bytes)))
    assert_as_sent(listener, sample)


@pytest.mark.parametrize("fragment_bytes", [1, 2, 3, 100, 1000])
def test_fragments_of_any_size_are_put_together(listener: Running, fragment_bytes: int) -> None:
    """Odd ones too, though PS3.8 annex E.1 forbids them to senders."""
    sample = make_sample()
    with Wire.associate(listener) as wire:
        values = message(3, store_command(sample), sample.dataset, fragment_bytes=fragment_bytes)
        store_over(wire, one_each(values))
    assert_as_sent(listener, sample)


def test_all_fragments_of_a_message_may_share_a_pdu(listener: Running) -> None:
    sample = make_sample()
    with Wire.associate(listener) as wire:
        store_over(wire, pdu(P_DATA, b"".join(message(3, store_command(sample), sample.dataset, fragment_bytes=50))))
    assert_as_sent(listener, sample)


def test_an_empty_last_fragment_ends_a_data_set(listener: Running) -> None:
    sample = make_sample()
    *head, last = message(3, store_command(sample), sample.dataset)
    open_ended = last[:5] + b"\0" + last[6:]
    with Wire.associate(listener) as wire:
        store_over(wire, one_each([*head, open_ended, struct.pack(">IBB", 2, 3, 2)]))
    assert_as_sent(listener, sample)


@pytest.mark.parametrize("chunk_bytes", [1, 5, 11])
def test_pdus_may_arrive_in_any_pieces(listener: Running, chunk_bytes: int) -> None:
    sample = make_sample()
    stream = one_each(message(3, store_command(sample), sample.dataset))
    with Wire.associate(listener) as wire:
        for start in range(0, len(stream), chunk_bytes):
            wire.send(stream[start : start + chunk_bytes])
        assert wire.response().status == 0
    assert_as_sent(listener, sample)


@pytest.mark.parametrize("max_pdu_bytes", [22, 23, 64, 129, 4096, UNLIMITED])
def test_answers_keep_to_the_requestors_longest_pdu(listener: Running, max_pdu_bytes: int) -> None:
    """PS3.8 section D.1.1; and each fragment has an even length, annex E.1."""
    sample = make_sample()
    with Wire.associate(listener, Request(max_pdu_bytes=max_pdu_bytes)) as wire:
        wire.send(one_each(message(3, store_command(sample), sample.dataset)))
        response = wire.response()
        assert response.status == 0
        assert max(response.pdu_lengths) <= (max_pdu_bytes or 1000)
        assert all(length % 2 == 0 for length in response.fragment_lengths)


def test_requests_may_be_sent_before_responses_are_read(listener: Running) -> None:
    study = make_sample().study
    samples = [make_sample(study=study) for _ in range(20)]
    stream = b""
    for number, sample in enumerate(samples, 1):
        stream += one_each(message(3, store_command(sample, message_id=number), sample.dataset))
        stream += one_each(message(1, echo_command(message_id=1000 + number)))
    with Wire.associate(listener) as wire:
        wire.send(stream + pdu(RELEASE_RQ, bytes(4)))
        for number, sample in enumerate(samples, 1):
            stored, echoed = wire.response(), wire.response()
            assert (stored.kind, stored.message_id, stored.status) == (C_STORE_RQ | RESPONSE, number, 0)
            assert stored.sop == sample.sop
            assert (echoed.kind, echoed.message_id, echoed.status) == (C_ECHO_RQ | RESPONSE, 1000 + number, 0)
        assert wire.read_pdu()[0] == RELEASE_RP
    assert_as_sent(listener, *samples)


@pytest.mark.parametrize("priority", [0, 1, 2], ids=["medium", "high", "low"])
@pytest.mark.parametrize("move_originator", [None, ("MOVER", 7), ("SIXTEEN-LETTERS-", 0xFFFF)])
def test_priorities_and_move_originators_change_nothing(
    listener: Running, priority: int, move_originator: tuple[str, int] | None
) -> None:
    """PS3.7 table 9.3-1: an object that comes of a C-MOVE is stored like any other."""
    sample = make_sample()
    command = store_command(sample, priority=priority, move_originator=move_originator)
    with Wire.associate(listener) as wire:
        store_over(wire, one_each(message(3, command, sample.dataset)))
    assert_as_sent(listener, sample)


@pytest.mark.parametrize("message_id", [0, 1, 0x7FFF, 0xFFFF])
def test_any_message_id_is_answered(listener: Running, message_id: int) -> None:
    with Wire.associate(listener) as wire:
        wire.send(one_each(message(1, echo_command(message_id=message_id))))
        assert wire.response().message_id == message_id


def test_an_association_stays_usable_after_refusals(listener: Running) -> None:
    good, bad = make_sample(), make_sample()
    with Wire.associate(listener) as wire:
        for data_set, status in ((bad.dataset[:-1], 0xC000), (b"", 0xC000), (bad.dataset, 0xA900)):
            sample = make_sample(study=good.study)
            wire.send(one_each(message(3, store_command(sample), data_set)) if data_set else no_data_set(sample))
            assert wire.response().status == status
        store_over(wire, one_each(message(3, store_command(good), good.dataset)))
    assert_as_sent(listener, good)


def no_data_set(sample: Sample) -> bytes:
    """A C-STORE-RQ that says that no data set follows."""
    announced, none = struct.pack("<HHIH", 0, 0x0800, 2, 0), struct.pack("<HHIH", 0, 0x0800, 2, 0x0101)
    return one_each(message(3, store_command(sample).replace(announced, none)))


def whole_association() -> tuple[list[bytes], list[Sample]]:
    """An association's PDUs in turn, and its objects."""
    study = make_sample().study
    samples = [make_sample(study=study) for _ in range(2)]
    pdus = [Request().encode()]
    for number, sample in enumerate(samples, 1):
        values = message(3, store_command(sample, message_id=number), sample.dataset, fragment_bytes=300)
        pdus += [pdu(P_DATA, value) for value in values]
    return [*pdus, pdu(RELEASE_RQ, bytes(4))], samples


@pytest.mark.parametrize("ending", [abort(), b"\4\0\0\0\1\0\0", b""], ids=["abort", "half a PDU", "close"])
def test_an_association_that_ends_anywhere_leaves_whole_objects_alone(listener: Running, ending: bytes) -> None:
    pdus, _ = whole_association()
    for count in range(len(pdus) + 1):
        pdus, samples = whole_association()
        with Wire.connect(listener) as wire:
            wire.send(b"".join(pdus[:count]) + ending)
            assert closes(wire)
        # A request and 4 PDUs of an object each: what came whole is kept, what did not is gone.
        whole = samples[: sum(count > last for last in ends_of_objects(pdus))]
        if whole:
            assert_as_sent(listener, *whole)
            assert set(entries(listener, whole[0].study)) == {sample.sop for sample in whole}
    wait_for(lambda: not listener.journal_files)


def ends_of_objects(pdus: list[bytes]) -> list[int]:
    """Which PDUs end a data set."""
    return [number for number, one in enumerate(pdus) if one[0] == P_DATA and one[11] == 2]


def closes(wire: Wire) -> bool:
    """Whether the listener closes, whatever it says before."""
    wire.connection.shutdown(1)
    try:
        while wire.connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def aborted(wire: Wire) -> tuple[int, int]:
    """Source and reason of the listener's A-ABORT: PS3.8 table 9-26."""
    kind, body = wire.read_pdu()
    assert kind == ABORT, (kind, body)
    assert wire.is_closed()
    return body[2], body[3]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (pdu(RELEASE_RP, bytes(4)), (2, 2)),
        (Request().encode(), (2, 2)),
        (pdu(2, bytes(68)), (2, 2)),
        (pdu(9, bytes(4)), (2, 1)),
        (one_each(message(5, echo_command())), (2, 6)),
        (one_each(message(1, echo_command())[:1])[:-20] + pdu(RELEASE_RQ, bytes(4)), None),
    ],
    ids=["release response", "second request", "accept", "unknown", "context not accepted", "short PDU"],
)
def test_what_may_not_come_is_answered_with_an_abort(
    start_listener: Callable[..., Running], stream: bytes, reason: tuple[int, int] | None
) -> None:
    """PS3.8 section 9.2, action AA-8."""
    listener = start_listener(pdu_timeout_s=0.5)
    with Wire.associate(listener) as wire:
        wire.send(stream)
        source_and_reason = aborted(wire)
        assert reason is None or source_and_reason == reason


def test_a_release_within_a_message_is_an_abort(listener: Running) -> None:
    sample = make_sample()
    with Wire.associate(listener) as wire:
        wire.send(one_each(message(3, store_command(sample), sample.dataset)[:1]) + pdu(RELEASE_RQ, bytes(4)))
        assert aborted(wire) == (2, 2)


def test_releases_that_collide_end_the_association(listener: Running) -> None:
    """PS3.8 section 9.2, states 9 to 12: the listener requests none, so the second is the requestor's own."""
    with Wire.associate(listener) as wire:
        wire.send(pdu(RELEASE_RQ, bytes(4)) * 2 + pdu(RELEASE_RP, bytes(4)))
        assert wire.read_pdu()[0] == RELEASE_RP
        assert wire.is_closed()
