"""A sender that does anything a sender can do, in any order, against a model of what must then be true."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuzz import streams
from tests.fuzz.connection import RawAssociation
from tests.fuzz.exchange import FindingError
from tests.fuzz.listeners import ThreadTarget
from tests.fuzz.scale import CASES, SEED, share
from tests.fuzz.templates import STUDY, commitment, small_object, uid_like

pytestmark = [pytest.mark.filterwarnings("ignore:::pydicom", "ignore:::pynetdicom"), pytest.mark.timeout(60 + CASES)]

EXAMPLES = share(0.05)
STEPS = 30
CONTEXTS = st.sampled_from((3, 5, 7, 9))
SEEDS = st.integers(0, 1 << 30)


class Senders(RuleBasedStateMachine):
    """Up to a few associations. `first` is what each SOP Instance UID was stored with first, and how."""

    target: ClassVar[ThreadTarget]
    born: ClassVar[int] = 0

    associations = Bundle("associations")
    sops = Bundle("sops")

    def __init__(self) -> None:
        super().__init__()
        # Each run has UIDs of its own: what an earlier one stored is still there.
        type(self).born += 1
        self.uids = random.Random(f"{SEED} {self.born}")
        self.first: dict[str, tuple[int, bytes]] = {}
        self.studies: dict[str, str] = {}
        self.open: list[RawAssociation] = []
        self.halves: dict[int, tuple[list[bytes], streams.Message, str]] = {}

    def _store(self, association: RawAssociation, message: streams.Message, sop: str, seed: int | None) -> int:
        status = association.request(message, None if seed is None else random.Random(seed))
        if status == 0x0000:
            self._check(association, message, sop)
        return status

    def _check(self, association: RawAssociation, message: streams.Message, sop: str) -> None:
        self.target.check_stored(association.sent(message, sop), association.contexts[message.context_id])

    @initialize(target=associations)
    def two_senders(self) -> object:
        return multiple(self.associate(16_384), self.associate(128))

    @initialize(target=sops, context_id=CONTEXTS)
    def an_object(self, context_id: int) -> object:
        with RawAssociation(self.target) as association:
            return self.store_a_new_object(association, context_id, 0)

    @precondition(lambda self: len(self.open) < 4)
    @rule(target=associations, max_pdu_bytes=st.sampled_from((0, 1, 128, 16_384, 0xFFFFFFFF)))
    def associate(self, max_pdu_bytes: int) -> RawAssociation:
        association = RawAssociation(self.target, streams.associate_rq(0, max_pdu_bytes))
        self.open.append(association)
        return association

    @rule(association=associations, message_id=st.integers(0, 0xFFFF))
    def echo(self, association: RawAssociation, message_id: int) -> None:
        if id(association) not in self.halves:
            assert association.request(streams.echo(message_id)) == 0x0000

    @rule(target=sops, association=associations, context_id=CONTEXTS, seed=SEEDS)
    def store_a_new_object(self, association: RawAssociation, context_id: int, seed: int) -> object:
        if id(association) in self.halves:
            return multiple()
        study = uid_like(STUDY, self.uids)
        sop, data_set = small_object(context_id, self.uids, study=study)
        assert self._store(association, streams.store(context_id, sop, data_set), sop, seed) == 0x0000
        self.first[sop], self.studies[sop] = (context_id, data_set), study
        return sop

    @rule(association=associations, sop=sops, seed=SEEDS)
    def store_it_again(self, association: RawAssociation, sop: str, seed: int) -> None:
        if id(association) not in self.halves:
            context_id, data_set = self.first[sop]
            assert self._store(association, streams.store(context_id, sop, data_set), sop, seed) == 0x0000

    @rule(association=associations, sop=sops, context_id=CONTEXTS, is_of_its_study=st.booleans())
    def store_another_object_of_its_uid(
        self, association: RawAssociation, sop: str, context_id: int, is_of_its_study: bool
    ) -> None:
        if id(association) not in self.halves:
            study = self.studies.get(sop, "") if is_of_its_study else ""
            _, data_set = small_object(context_id, self.uids, sop=sop, study=study)
            assert self._store(association, streams.store(context_id, sop, data_set), sop, None) == 0x0111

    @rule(association=associations, context_id=CONTEXTS, seed=SEEDS)
    def store_an_object_that_is_cut_off(self, association: RawAssociation, context_id: int, seed: int) -> None:
        if id(association) not in self.halves:
            sop, data_set = small_object(context_id, self.uids)
            # A deflated data set may end with a byte of padding, which nobody would miss.
            message = streams.store(context_id, sop, data_set[: len(data_set) - random.Random(seed).randint(2, 30)])
            assert self._store(association, message, sop, seed) == 0xC000

    @rule(association=associations, context_id=CONTEXTS)
    def store_an_object_under_another_uid(self, association: RawAssociation, context_id: int) -> None:
        if id(association) not in self.halves:
            sop, data_set = small_object(context_id, self.uids)
            message = streams.store(context_id, uid_like(sop, self.uids), data_set)
            assert association.request(message) == 0xA900

    @rule(association=associations)
    def store_nothing(self, association: RawAssociation) -> None:
        if id(association) not in self.halves:
            command = streams.command(streams.C_STORE_RQ, sop_class=streams.MR, sop="1.2.3")
            assert association.request(streams.Message(3, command)) == 0xC000

    @rule(association=associations)
    def ask_for_what_is_not_offered(self, association: RawAssociation) -> None:
        if id(association) not in self.halves:
            command = streams.command(streams.C_FIND_RQ, sop_class=streams.MR, has_data_set=True)
            assert association.request(streams.Message(3, command, b"\0" * 16)) == 0x0211

    @rule(association=associations, sop=sops, seed=SEEDS, is_whole=st.booleans())
    def ask_for_commitment(self, association: RawAssociation, sop: str, seed: int, is_whole: bool) -> None:
        if id(association) not in self.halves:
            asked = commitment([(streams.MR, sop)], uid_like(sop, self.uids))
            if not is_whole:
                asked = streams.Message(asked.context_id, asked.command, asked.data_set[:-3])
            assert association.request(asked, random.Random(seed)) == (0x0000 if is_whole else 0x0115)

    @rule(association=associations, context_id=CONTEXTS, seed=SEEDS, again=st.booleans())
    def begin_an_object(self, association: RawAssociation, context_id: int, seed: int, again: bool) -> None:
        if id(association) in self.halves:
            return
        known = sorted(self.first)
        if again and known:
            sop = known[seed % len(known)]
            context_id, data_set = self.first[sop]
        else:
            sop, data_set = small_object(context_id, self.uids)
        message = streams.store(context_id, sop, data_set)
        pdus = streams.pdus(message, random.Random(seed))
        cut = seed % len(pdus)
        association.send(b"".join(pdus[:cut]))
        self.halves[id(association)] = pdus[cut:], message, sop

    @rule(association=associations)
    def end_the_object(self, association: RawAssociation) -> None:
        if (half := self.halves.pop(id(association), None)) is not None:
            pdus, message, sop = half
            association.send(b"".join(pdus))
            first = self.first.setdefault(sop, (message.context_id, message.data_set))
            status = association.answer()
            assert status == (0x0000 if first == (message.context_id, message.data_set) else 0x0111)
            if status == 0x0000:
                self._check(association, message, sop)

    @rule(one=associations, other=associations, context_id=CONTEXTS, seed=SEEDS)
    def send_one_object_on_two_associations_at_once(
        self, one: RawAssociation, other: RawAssociation, context_id: int, seed: int
    ) -> None:
        if one is other or {id(one), id(other)} & set(self.halves):
            return
        sop, data_set = small_object(context_id, self.uids)
        message, rng = streams.store(context_id, sop, data_set), random.Random(seed)
        pending = {association: streams.pdus(message, rng) for association in (one, other)}
        while any(pending.values()):
            association = rng.choice([one for one, pdus in pending.items() if pdus])
            association.send(pending[association].pop(0))
        assert [one.answer(), other.answer()] == [0x0000, 0x0000]
        self._check(one, message, sop)
        self.first[sop] = context_id, data_set

    @rule(
        target=associations,
        association=consumes(associations),
        how=st.sampled_from(("release", "abort", "drop", "reset")),
    )
    def leave_and_come_again(self, association: RawAssociation, how: str) -> RawAssociation:
        half = self.halves.pop(id(association), None)
        self.open.remove(association)
        if how == "release" and half is None:
            association.release()
        elif how == "abort":
            association.abort()
        else:
            association.drop(reset=how == "reset")
        return self.associate(16_384)

    @invariant()
    def nothing_was_logged_that_must_not_be(self) -> None:
        self.target.check_log()

    def teardown(self) -> None:
        for association in self.open:
            association.drop()
        self.target.check_case()


def test_no_order_of_steps_makes_it_lie_or_leak() -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = ThreadTarget(Path(folder))
        try:
            Senders.target = target
            profile = settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=CASES <= 1000,
                database=None,
                # A step's outcome may depend on time: what failed once is shown as it is.
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )
            run_state_machine_as_test(Senders, settings=profile)
            target.check_all()
        except FindingError as error:
            raise AssertionError(str(error)) from error
        finally:
            target.stop()
