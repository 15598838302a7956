"""Mutated streams of real PDUs: whatever comes, the listener neither breaks nor lies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import streams
from tests.fuzz.exchange import FindingError, exchange
from tests.fuzz.listeners import ProcessTarget, ThreadTarget
from tests.fuzz.mutations import spoil_stream
from tests.fuzz.scale import CASES as CASES_IN_ALL
from tests.fuzz.scale import SEED, run_cases, share
from tests.fuzz.target import Target
from tests.fuzz.templates import SOP, STUDY, commitment, small_object, uid_like

pytestmark = [
    pytest.mark.filterwarnings("ignore:::pydicom", "ignore:::pynetdicom"),
    pytest.mark.timeout(60 + CASES_IN_ALL),
]

CASES = share(0.55)
CASES_OF_THE_PROCESS = share(0.1)
STORED_IN = (3, 5, 7, 9)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[ThreadTarget]:
    target = ThreadTarget(tmp_path)
    yield target
    target.stop()


def valid_pdus(rng: random.Random) -> tuple[list[bytes], int]:
    """A valid association's PDUs, and how many objects it stores."""
    study = uid_like(STUDY, rng) if rng.random() < 0.8 else STUDY
    pdus = [streams.associate_rq(rng.choice((0, 0, 1, 2)), rng.choice((16_384, 16_384, 0, 1, 128, 0xFFFFFFFF)))]
    stored = 0
    for number in range(rng.choice((0, 1, 1, 2, 4))):
        message_id, kind = rng.randrange(0x10000), rng.random()
        if kind < 0.65:
            context_id = rng.choice(STORED_IN)
            sop, data_set = small_object(context_id, rng, study=study)
            message = streams.store(context_id, sop, data_set, message_id=message_id)
            stored += 1
        elif kind < 0.85:
            message = streams.echo(message_id)
        else:
            message = streams.Message(
                3, streams.command(streams.C_CANCEL_RQ, sop_class=streams.MR, message_id=message_id + number)
            )
        pdus += streams.pdus(message, rng if rng.random() < 0.7 else None)
    if rng.random() < 0.03:
        references = [(streams.MR, uid_like(SOP, rng)) for _ in range(rng.choice((1, 2, 50)))]
        pdus += streams.pdus(commitment(references, uid_like(STUDY, rng)), rng)
    pdus.append(streams.release_rq() if rng.random() < 0.8 else streams.abort())
    return pdus, stored


def push_stream(target: Target, rng: random.Random) -> None:
    """One case: a stream, mostly spoiled, on one connection."""
    pdus, stored = valid_pdus(rng)
    is_valid = rng.random() < 0.1
    if is_valid:
        stream = b"".join(pdus)
    elif rng.random() < 0.03:
        stream = rng.choice((rng.randbytes(rng.randrange(400)), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\2\0\1\0\1"))
    else:
        # Half of them keep their association request whole, to come past it.
        head, tail = (pdus[:1], pdus[1:]) if rng.random() < 0.6 else ([], pdus)
        stream = b"".join(head) + spoil_stream(tail, rng)
    ending = rng.choice(("shutdown",) * 8 + ("close", "reset"))
    received = exchange(target, stream, rng, ending=ending, chunked=rng.random() < 0.4)
    target.check_case()
    answered = streams.answers(received)
    successes = target.check_answers(stream, answered)
    if is_valid and ending == "shutdown" and successes != stored:
        raise FindingError(f"{successes} of {stored} valid objects were stored: {answered}")


def test_mutated_streams_neither_break_it_nor_make_it_lie(target: ThreadTarget) -> None:
    cases = 0

    def run(rng: random.Random) -> None:
        nonlocal cases
        cases += 1
        push_stream(target, rng)
        if cases % 25 == 0:
            target.echoes()

    run_cases("streams", range(CASES), SEED, run)
    target.check_all()


def test_the_process_survives_mutated_streams_and_ends_properly(tmp_path: Path) -> None:
    target = ProcessTarget(tmp_path)
    try:
        threads = target.open_threads()
        run_cases("process", range(CASES_OF_THE_PROCESS), SEED, lambda rng: push_stream(target, rng))
        target.check_all()
        # Threads that publish come with the first study, and stay.
        assert target.open_threads() < threads + 20
    finally:
        assert target.stop() == 0


@pytest.mark.parametrize("size_bytes", [1, 2, 7])
def test_a_stream_in_tiny_segments_and_fragments_is_stored(target: ThreadTarget, size_bytes: int) -> None:
    rng = random.Random(size_bytes)
    sop, data_set = small_object(3, rng, sop=uid_like(SOP, rng))
    message = streams.store(3, sop, data_set)
    pieces = []
    for kind, data in ((1, message.command), (0, message.data_set)):
        for start in range(0, len(data), size_bytes):
            piece, is_last = data[start : start + size_bytes], start + size_bytes >= len(data)
            value = (len(piece) + 2).to_bytes(4, "big") + bytes((3, kind | 2 * is_last)) + piece
            pieces.append(bytes((4, 0)) + len(value).to_bytes(4, "big") + value)
    stream = b"".join((streams.associate_rq(), *pieces, streams.release_rq()))
    answered = streams.answers(exchange(target, stream, rng, chunked=True))
    assert answered.stores == [0x0000]
    target.check_answers(stream, answered)
    target.check_all()


@pytest.mark.parametrize("context_id", [0, 2, 15, 17, 255])
def test_a_fragment_of_a_context_that_was_not_accepted_aborts(target: ThreadTarget, context_id: int) -> None:
    pdus = streams.pdus(streams.Message(context_id, streams.echo().command))
    stream = b"".join((streams.associate_rq(), *pdus))
    answered = streams.answers(exchange(target, stream, random.Random(0)))
    assert (answered.responses, answered.end) == ([], streams.ABORT)
    target.check_all()


def test_the_check_finds_a_success_whose_object_is_not_there(target: ThreadTarget) -> None:
    rng = random.Random(1)
    sop, data_set = small_object(3, rng)
    stream = b"".join((streams.associate_rq(), *streams.pdus(streams.store(3, sop, data_set)), streams.release_rq()))
    answered = streams.answers(exchange(target, stream, rng))
    assert target.check_answers(stream, answered) == 1
    with pytest.raises(FindingError, match="no file holds"):
        target.check_answers(stream.replace(b"US\2\0\4\0", b"US\2\0\5\0"), answered)
    other, _ = small_object(3, rng)
    target.stored[other] = "0" * 64
    with pytest.raises(FindingError, match="is gone"):
        target.check_all()
