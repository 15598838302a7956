"""Storage commitment and kill -9: what was answered with Success is reported, if need be by the next process."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import listener_child
import pytest
from commitment_requestor import COMMITMENT, STORAGE, Requestor, ask, request, store
from listener_harness import Sender, associate, make_sample, make_settings, wait_for
from pynetdicom import evt

from services.listener.commitment_requests import Reference
from services.listener.commitment_transactions import Transaction, Transactions

KILLS = 8
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["services.listener.composition"])
# pynetdicom does not close its socket when the peer is gone.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Lives:
    """A listener that is killed and started again on the same folder."""

    def __init__(self, folder: Path, **options: object) -> None:
        self._folder = folder
        settings = make_settings(folder, commitment_retry_s=0.1, commitment_retry_max_s=0.5, **options)
        self._settings = settings.model_copy(update={"endpoint_file": folder / "endpoints.json"})
        self.process: BaseProcess | None = None

    def start(self) -> None:
        endpoints = self._folder / "endpoints.json"
        endpoints.unlink(missing_ok=True)
        arguments = (self._settings, self._folder / "topic", 0.0)
        self.process = FORKSERVER.Process(target=listener_child.run, args=arguments)
        self.process.start()
        wait_for(endpoints.exists, 30)
        self._address = json.loads(endpoints.read_text())["dicom"]

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def send(self) -> Sender:
        return Sender(associate(self._address["host"], self._address["port"], STORAGE, COMMITMENT))

    @property
    def transactions(self) -> list[str]:
        return [path.name for path in (self._folder / "journal/commitments").iterdir()]


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Callable[..., Lives]]:
    made: list[Lives] = []

    def make(**options: object) -> Lives:
        made.append(Lives(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.is_alive():
            one.kill()


@pytest.mark.slow
def test_every_request_that_got_success_is_reported_however_often_the_listener_is_killed(
    lives: Callable[..., Lives],
) -> None:
    rng = random.Random(20)
    asked: dict[str, str] = {}
    with Requestor() as requestor:
        listener = lives(commitment_peers=(requestor.address,), study_quiet_s=0.4)
        for _ in range(KILLS):
            listener.start()
            for _ in range(3):
                sample = make_sample()
                ds = request([sample])
                with listener.send() as sender:
                    store(sender, sample)
                    assert ask(sender.assoc, ds) == 0x0000
                asked[ds.TransactionUID] = sample.sop
            time.sleep(rng.uniform(0, 1.2))
            listener.kill()
        listener.start()
        wait_for(lambda: listener.transactions == [], 30)
    told = {report.transaction: report.committed for report in requestor.reports}
    assert told == {transaction: [sop] for transaction, sop in asked.items()}
    print(f"{KILLS} kills, {len(asked)} requests, {len(requestor.reports)} reports")


def test_a_listener_killed_right_after_its_answer_reports_in_its_next_life(lives: Callable[..., Lives]) -> None:
    with Requestor() as requestor:
        listener = lives(commitment_peers=(requestor.address,), study_quiet_s=1)
        listener.start()
        sample = make_sample()
        with listener.send() as sender:
            store(sender, sample)
            assert ask(sender.assoc, request([sample])) == 0x0000
            listener.kill()
        assert requestor.reports == []
        listener.start()
        assert requestor.wait().committed == [sample.sop]
        wait_for(lambda: listener.transactions == [])


def test_a_listener_killed_before_the_report_is_answered_reports_again(lives: Callable[..., Lives]) -> None:
    class KillingRequestor(Requestor):
        def _take(self, event: evt.Event, by_new_association: bool) -> tuple[int, None]:
            answer = super()._take(event, by_new_association)
            if len(self.reports) == 1:
                listener.kill()
            return answer

    with KillingRequestor() as requestor:
        listener = lives(commitment_peers=(requestor.address,))
        listener.start()
        sample = make_sample()
        with listener.send() as sender:
            store(sender, sample)
            assert ask(sender.assoc, request([sample])) == 0x0000
        requestor.wait(1)
        assert listener.process is not None
        listener.process.join(10)
        assert len(listener.transactions) == 1
        listener.start()
        assert requestor.wait(2).committed == [sample.sop]
        wait_for(lambda: listener.transactions == [])


def test_a_request_that_cannot_be_made_durable_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "commitments"
    transactions = Transactions(folder)
    transaction = Transaction(
        transaction_uid="1.2.3",
        calling_ae_title="TESTSCU",
        called_ae_title="SIMILIS",
        peer_address="127.0.0.1",
        received_at=datetime.now(UTC),
        references=(Reference("1.2.4", "1.2.5"),),
    )
    sync, calls = os.fsync, 0

    def fail_at(call: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(5, "Input/output error")
            sync(descriptor)

        return fsync

    for call in (1, 2):  # the file's, the folder's
        calls = 0
        monkeypatch.setattr(os, "fsync", fail_at(call))
        with pytest.raises(OSError, match="Input/output"):
            transactions.keep(transaction)
        assert list(folder.iterdir()) == []
    monkeypatch.setattr(os, "fsync", sync)
    transactions.keep(transaction)
    (folder / ".part-1.2.9").write_text("half")
    ((kept, found),) = Transactions(folder).recover()
    assert found == transaction
    assert [path.name for path in folder.iterdir()] == [f"{kept.name}.json"]
