"""Spoiled data sets in well-formed C-STORE requests: each is kept as it is or refused, and nothing in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from tests.fuzz import mutations, streams
from tests.fuzz.connection import RawAssociation
from tests.fuzz.exchange import FindingError
from tests.fuzz.listeners import ThreadTarget
from tests.fuzz.scale import CASES as CASES_IN_ALL
from tests.fuzz.scale import SEED, run_cases, share
from tests.fuzz.templates import Origin, encoded, origins, uid_like

pytestmark = [
    pytest.mark.filterwarnings("ignore:::pydicom", "ignore:::pynetdicom"),
    pytest.mark.timeout(60 + CASES_IN_ALL),
]

CASES = share(0.3)
EXPECTED = {0x0000, 0x0111, 0xA700, 0xA900, 0xC000}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[ThreadTarget]:
    target = ThreadTarget(tmp_path, max_object_bytes=1 << 20)
    for origin in origins():
        target.identity.update(origin.identity)
    yield target
    target.stop()


def kinds() -> tuple[tuple[str, str], ...]:
    """SOP class and transfer syntax of all the origins, in the order of their presentation contexts."""
    return tuple(sorted({(origin.sop_class, origin.transfer_syntax) for origin in origins()}))


def associate(target: ThreadTarget) -> RawAssociation:
    return RawAssociation(target, streams.associate_rq(contexts=kinds()))


def spoiled(origin: Origin, data: bytes, rng: random.Random) -> bytes:
    """One to three mutations of a data set."""
    little, explicit = origin.transfer_syntax != ExplicitVRBigEndian, origin.transfer_syntax != ImplicitVRLittleEndian
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.randrange(8)
        places = [place for place in origin.lengths if place <= len(data)]
        if kind < 2 and places:
            data = mutations.element_length(data, rng.choice(places), rng, little=little)
        elif kind == 2:
            data = mutations.nested(data, rng, explicit=explicit, little=little)
        elif kind == 3:
            # The header is where most can go wrong.
            head = rng.choice((300, 1000))
            data = mutations.bit_flips(data[:head], rng) + data[head:]
        elif kind == 4:
            other = rng.choice(origins()).data_set
            start = rng.randrange(len(data) + 1)
            data = data[:start] + other[rng.randrange(len(other)) :][: rng.choice((8, 100, 5000))] + data[start:]
        else:
            data = rng.choice(mutations.ON_BYTES)(data, rng)
    return data


def store_spoiled(target: ThreadTarget, association: RawAssociation, rng: random.Random) -> None:
    """One case: a data set on an association that stays usable."""
    origin = rng.choice(origins())
    sop = uid_like(origin.sop, rng)
    data = origin.data_set.replace(origin.sop.encode(), sop.encode())
    is_whole = rng.random() < 0.05
    if not is_whole:
        data = spoiled(origin, data, rng)
    data_set = encoded(data, origin.transfer_syntax)
    if not is_whole and origin.transfer_syntax == DeflatedExplicitVRLittleEndian and rng.random() < 0.5:
        data_set = rng.choice(mutations.ON_BYTES)(data_set, rng)
    context_id = 2 * kinds().index((origin.sop_class, origin.transfer_syntax)) + 1
    message = streams.store(context_id, sop, data_set or b"\0", sop_class=origin.sop_class)
    status = association.request(message, rng if rng.random() < 0.3 else None)
    target.check_log()
    if status not in EXPECTED:
        raise FindingError(f"answered with 0x{status:04X}")
    if status == 0x0000:
        target.check_stored(
            streams.Sent(context_id, origin.sop_class, sop, message.data_set), association.contexts[context_id]
        )
    elif is_whole:
        raise FindingError(f"the valid object {origin.name} was answered with 0x{status:04X}")


def test_spoiled_data_sets_are_kept_as_they_are_or_refused(target: ThreadTarget) -> None:
    association, cases = associate(target), 0

    def run(rng: random.Random) -> None:
        nonlocal association, cases
        cases += 1
        try:
            store_spoiled(target, association, rng)
        except FindingError:
            # The next case is not to suffer from this one.
            association.drop()
            association = associate(target)
            raise
        if cases % 50 == 0:
            association.release()
            target.check_case()
            association = associate(target)

    try:
        run_cases("data sets", range(CASES), SEED, run)
        association.release()
    finally:
        association.drop()
    target.check_all()
