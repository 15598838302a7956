"""Storage commitment with pynetdicom as the requestor: requests, what is reported, and by which way."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from commitment_requestor import (
    COMMITMENT,
    STORAGE,
    Report,
    Requestor,
    ask,
    ask_and_leave,
    paused_reactor,
    request,
    store,
)
from listener_harness import Running, Sample, make_sample, wait_for
from prometheus_client import REGISTRY
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import Association, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from services.listener.commitment_delivery import build_report, encode_report
from services.listener.commitment_peers import parse_peers
from services.listener.commitment_requests import Reference
from services.listener.commitment_transactions import Transaction, Transactions
from services.listener.open_studies import OpenStudies
from shared.errors import ConfigurationError

# pynetdicom drops a socket that could not connect without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"

Start = Callable[..., Running]


@pytest.fixture
def requestor() -> Iterator[Requestor]:
    with Requestor() as running:
        yield running


@pytest.fixture
def start(start_listener: Start) -> Start:
    """Starts listeners that know where the requestors given listen."""

    def start(*requestors: Requestor, **options: object) -> Running:
        defaults: dict[str, object] = {
            "commitment_peers": tuple(one.address for one in requestors),
            "commitment_retry_s": 0.05,
            "commitment_retry_max_s": 0.2,
        }
        return start_listener(**(defaults | options))

    return start


def stored(listener: Running, *samples: Sample) -> list[Sample]:
    """Samples that are received, and archived unless a publisher keeps them from that."""
    sent = list(samples) or [make_sample(study=(study := generate_uid()), series=study) for _ in range(3)]
    with listener.send() as sender:
        store(sender, *sent)
    return sent


def begin_store(assoc: Association, sample: Sample) -> None:
    message = C_STORE()
    message.MessageID, message.Priority = 1, 2
    message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = sample.sop_class, sample.sop
    message.DataSet = BytesIO(sample.dataset)
    (context,) = [one for one in assoc.accepted_contexts if one.abstract_syntax == sample.sop_class]
    assoc.dimse.send_msg(message, context.context_id)


def transactions(listener: Running) -> list[str]:
    folder: Path = listener.settings.listener.journal_dir / "commitments"
    return sorted(path.name for path in folder.iterdir())


def archived(listener: Running, sample: Sample) -> Path:
    return listener.archive.root / f"instances/{sample.study}/{sample.series}/{sample.sop}.dcm"


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"similis_listener_{name}", labels) or 0.0


def reported(listener: Running, requestor: Requestor, samples: list[Sample]) -> Report:
    ask_and_leave(listener, request(samples))
    return requestor.wait(len(requestor.reports) + 1)


def test_archived_objects_are_committed_on_a_new_association(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    samples = stored(listener)
    listener.manifest(samples[0].study)
    ds = request(samples)
    ask_and_leave(listener, ds)
    report = requestor.wait(timeout_s=8)  # sooner than an association that is still open is given a chance
    assert report.by_new_association
    assert (report.event_type, report.transaction) == (1, ds.TransactionUID)
    assert report.committed == [sample.sop for sample in samples]
    assert "FailedSOPSequence" not in report.ds
    assert requestor.released.wait(5)
    wait_for(lambda: transactions(listener) == [])


def test_a_requestor_that_waits_on_the_association_it_sent_by_gets_its_report_there(
    start: Start, requestor: Requestor
) -> None:
    listener = start(requestor, study_max_age_s=3600)
    study = generate_uid()
    samples = [make_sample(study=study) for _ in range(3)]
    with listener.send(STORAGE, COMMITMENT) as sender:
        requestor.listen_on(sender.assoc)
        store(sender, *samples)
        assert ask(sender.assoc, request(samples)) == 0x0000
        report = requestor.wait()
        assert not report.by_new_association
        assert report.committed == [sample.sop for sample in samples]
        wait_for(lambda: transactions(listener) == [])
    assert len(requestor.reports) == 1


def test_a_report_does_not_come_between_a_store_and_its_answer(start: Start, requestor: Requestor) -> None:
    # Many senders expect nothing but the response, and abort if a request comes instead.
    listener = start()
    (sample,) = stored(listener, make_sample())
    listener.manifest(sample.study)
    with listener.send(STORAGE, COMMITMENT) as sender:
        requestor.listen_on(sender.assoc)
        assert ask(sender.assoc, request([sample])) == 0x0000
        with paused_reactor(sender.assoc):
            ends_s = time.monotonic() + 3
            while time.monotonic() < ends_s:
                begin_store(sender.assoc, make_sample())
                _, message = sender.assoc.dimse.get_msg(block=True)
                assert isinstance(message, C_STORE)
            assert requestor.reports == []
        assert not requestor.wait().by_new_association


def test_one_report_at_a_time_is_on_its_way_on_an_association(start: Start) -> None:
    begun: list[str] = []
    go_on = threading.Event()

    class SlowRequestor(Requestor):
        def _take(self, event: evt.Event, by_new_association: bool) -> tuple[int, None]:
            begun.append(event.event_information.TransactionUID)
            go_on.wait(20)
            return super()._take(event, by_new_association)

    listener = start(study_quiet_s=2)
    samples = stored(listener)
    with SlowRequestor() as requestor, listener.send(COMMITMENT) as sender:
        requestor.listen_on(sender.assoc)
        for sample in samples:
            assert ask(sender.assoc, request([sample])) == 0x0000
        wait_for(lambda: bool(begun))
        time.sleep(1.5)
        assert len(begun) == 1
        go_on.set()
        requestor.wait(3)


def test_the_new_association_takes_over_when_the_first_one_gives_no_answer(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    (sample,) = stored(listener, make_sample())
    with listener.send(COMMITMENT) as sender:  # nobody handles reports on it: it answers with a failure
        assert ask(sender.assoc, request([sample])) == 0x0000
        assert requestor.wait().by_new_association


def test_many_transactions_on_one_association_are_reported_one_by_one(start: Start, requestor: Requestor) -> None:
    listener = start()
    samples = stored(listener)
    with listener.send(COMMITMENT) as sender:
        requestor.listen_on(sender.assoc)
        for sample in samples:
            assert ask(sender.assoc, request([sample])) == 0x0000
        requestor.wait(3)
    assert sorted(report.committed[0] for report in requestor.reports) == sorted(sample.sop for sample in samples)
    assert not any(report.by_new_association for report in requestor.reports)


def test_what_was_never_received_fails_beside_what_was(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    samples = stored(listener)
    unknown = make_sample()
    report = reported(listener, requestor, [unknown, *samples])
    assert report.event_type == 2
    assert report.failed == {unknown.sop: 0x0112}
    assert report.committed == [sample.sop for sample in samples]


def test_another_sop_class_than_the_objects_own_is_a_conflict(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    (sample,) = stored(listener, make_sample())
    other = Sample(sample.dataset, sample.study, sample.series, sample.sop, sop_class=ENHANCED_MR)
    assert reported(listener, requestor, [other]).failed == {sample.sop: 0x0119}


def test_an_object_that_is_damaged_or_gone_in_the_archive_fails(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    damaged, gone, sound = stored(listener, *(make_sample(study="1.2.3", series="1.2.4") for _ in range(3)))
    listener.manifest("1.2.3")
    wait_for(lambda: listener.journal_files == [])
    path = archived(listener, damaged)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    archived(listener, gone).unlink()
    report = reported(listener, requestor, [damaged, gone, sound])
    assert report.failed == {damaged.sop: 0x0110, gone.sop: 0x0112}
    assert report.committed == [sound.sop]


def test_an_object_that_is_exchanged_together_with_its_manifest_fails(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    (sample,) = stored(listener, make_sample())
    ((_, entry),) = listener.manifest(sample.study).instances()
    wait_for(lambda: listener.journal_files == [])
    data = archived(listener, sample).read_bytes()[:-1] + b"?"
    archived(listener, sample).write_bytes(data)
    manifest = listener.archive.root / f"manifests/{sample.study}/1.json"
    manifest.write_text(manifest.read_text().replace(entry.sha256, sha256(data).hexdigest()))
    assert reported(listener, requestor, [sample]).failed == {sample.sop: 0x0110}


def test_a_study_whose_manifest_is_damaged_fails(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    (sample,) = stored(listener, make_sample())
    listener.manifest(sample.study)
    (listener.archive.root / f"manifests/{sample.study}/1.json").write_text("{")
    assert reported(listener, requestor, [sample]).failed == {sample.sop: 0x0110}


def test_a_uid_that_two_objects_claim_fails(start: Start, requestor: Requestor) -> None:
    listener = start(requestor, conflicts="keep-aside")
    first, other = stored(listener, make_sample(), make_sample())
    stored(listener, make_sample(sop=first.sop, fill=1))  # kept aside, and answered with Success
    report = reported(listener, requestor, [first, other])
    assert report.failed == {first.sop: 0x0110}
    assert report.committed == [other.sop]


def test_objects_still_in_the_journal_are_waited_for(start: Start, requestor: Requestor) -> None:
    listener = start(requestor, study_quiet_s=1.5)
    with listener.send(STORAGE) as sender:
        samples = [make_sample(study="1.2.3") for _ in range(2)]
        store(sender, *samples)
        ask_and_leave(listener, request(samples))  # by another association than the one that stays open
        assert requestor.reports == []
        assert requestor.wait().committed == [sample.sop for sample in samples]


def test_objects_that_are_not_archived_in_time_fail(start: Start, requestor: Requestor) -> None:
    listener = start(requestor, study_quiet_s=60, commitment_wait_s=0.5)
    (sample,) = stored(listener, make_sample())
    assert reported(listener, requestor, [sample]).failed == {sample.sop: 0x0110}


def test_archived_objects_are_committed_while_the_broker_is_away(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    listener.publisher.available = False
    samples = stored(listener)
    assert reported(listener, requestor, samples).committed == [sample.sop for sample in samples]
    assert listener.publisher.events == []
    listener.publisher.available = True


def test_an_archive_that_is_away_is_waited_for(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    (sample,) = stored(listener, make_sample())
    listener.manifest(sample.study)
    wait_for(lambda: listener.journal_files == [])
    path = archived(listener, sample)
    away = path.with_suffix(".away")
    path.rename(away)
    path.symlink_to(path)  # reading it is an error of the file system, not a missing file
    ask_and_leave(listener, request([sample]))
    time.sleep(1)
    assert requestor.reports == []
    away.replace(path)
    assert requestor.wait().committed == [sample.sop]


def test_the_same_request_again_is_the_same_transaction(start: Start, requestor: Requestor) -> None:
    listener = start(requestor, study_quiet_s=1)
    samples = stored(listener)
    ds = request(samples)
    ask_and_leave(listener, ds)
    ask_and_leave(listener, ds)
    assert transactions(listener) == [f"{ds.TransactionUID}.json"]
    assert requestor.wait().failed == {}
    wait_for(lambda: transactions(listener) == [])
    ask_and_leave(listener, ds)  # once it is over, its UID is free again
    assert requestor.wait(2).committed == [sample.sop for sample in samples]


def test_a_transaction_that_is_asked_for_again_while_it_ends_is_not_over(tmp_path: Path) -> None:
    kept = Transactions(tmp_path / "commitments")
    transaction = Transaction(
        transaction_uid="1.2.3",
        calling_ae_title="TESTSCU",
        called_ae_title="SIMILIS",
        peer_address="127.0.0.1",
        received_at=datetime.now(UTC),
        references=(Reference("1.2.4", "1.2.5"),),
    )
    first, again = kept.keep(transaction), kept.keep(transaction)
    assert not kept.remove(first)
    assert kept.load(again.name) == transaction
    assert kept.remove(again)
    assert kept.recover() == []


def test_a_transaction_uid_that_is_in_use_fails(start: Start, requestor: Requestor) -> None:
    listener = start(requestor, study_quiet_s=2)
    first, second = stored(listener, make_sample(), make_sample())
    ds = request([first])
    ask_and_leave(listener, ds)
    ask_and_leave(listener, request([second], ds.TransactionUID))
    assert requestor.wait().failed == {second.sop: 0x0131}
    assert requestor.wait(2).committed == [first.sop]
    wait_for(lambda: transactions(listener) == [])


def test_a_requestor_that_is_away_is_tried_until_it_is_back(start: Start, start_listener: Start) -> None:
    with Requestor() as gone:
        address = gone.address
    listener = start_listener(commitment_peers=(address,), commitment_retry_s=0.05, commitment_retry_max_s=0.2)
    (sample,) = stored(listener, make_sample())
    retries = counted("commitment_retries_total")
    ds = request([sample])
    ask_and_leave(listener, ds)
    wait_for(lambda: counted("commitment_retries_total") >= retries + 2)
    assert transactions(listener) == [f"{ds.TransactionUID}.json"]
    listener.stop()
    with Requestor() as back:
        start(back)
        assert back.wait().committed == [sample.sop]
        wait_for(lambda: transactions(listener) == [])


def test_a_report_that_is_refused_is_sent_again(start: Start) -> None:
    with Requestor(0x0110, 0x0000) as requestor:
        listener = start(requestor)
        (sample,) = stored(listener, make_sample())
        ask_and_leave(listener, request([sample]))
        assert requestor.wait(2).committed == [sample.sop]
        wait_for(lambda: transactions(listener) == [])


@pytest.mark.parametrize("accepts_scp", [False, None], ids=["it says so", "it does not answer"])
def test_a_requestor_that_does_not_take_the_scu_role_gets_no_report(start: Start, accepts_scp: bool | None) -> None:
    with Requestor(accepts_scp=accepts_scp) as requestor:
        listener = start(requestor)
        (sample,) = stored(listener, make_sample())
        retries = counted("commitment_retries_total")
        ask_and_leave(listener, request([sample]))
        wait_for(lambda: counted("commitment_retries_total") >= retries + 2)
        assert requestor.reports == []
        assert len(transactions(listener)) == 1


def test_a_requestor_at_an_unknown_host_is_tried_again(start: Start) -> None:
    listener = start(commitment_peers=("TESTSCU=nowhere.invalid:104",))
    (sample,) = stored(listener, make_sample())
    retries = counted("commitment_retries_total")
    ask_and_leave(listener, request([sample]))
    wait_for(lambda: counted("commitment_retries_total") >= retries + 2)
    assert len(transactions(listener)) == 1


def test_a_stop_breaks_off_a_report_that_is_not_answered(start: Start) -> None:
    asked, go_on = threading.Event(), threading.Event()

    class SlowRequestor(Requestor):
        def _take(self, event: evt.Event, by_new_association: bool) -> tuple[int, None]:
            asked.set()
            go_on.wait(20)
            return super()._take(event, by_new_association)

    with SlowRequestor() as requestor:
        listener = start(requestor)
        (sample,) = stored(listener, make_sample())
        ask_and_leave(listener, request([sample]))
        assert asked.wait(10)
        begun_s = time.monotonic()
        listener.stop()
        assert time.monotonic() - begun_s < 15
        assert len(transactions(listener)) == 1
        go_on.set()


@pytest.mark.slow
def test_an_association_that_takes_no_whole_report_is_closed(start: Start, requestor: Requestor) -> None:
    listener = start(requestor, pdu_timeout_s=1.0)
    unknown = [Sample(b"", "", "", f"1.2.826.0.1.3680043.8.498.{number}.{10**30}") for number in range(60_000)]
    go_on = threading.Event()
    with listener.send(COMMITMENT) as sender:
        sender.assoc.dul.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert ask(sender.assoc, request(unknown)) == 0x0000
        ended = counted("associations_total", outcome="lost")
        sender.assoc.bind(evt.EVT_PDU_RECV, lambda _: go_on.wait(30))
        report = requestor.wait(timeout_s=40)
        assert report.by_new_association
        assert counted("associations_total", outcome="lost") == ended + 1
        go_on.set()


def test_a_requestor_without_an_address_is_given_up_in_the_end(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    given_up = counted("commitments_given_up_total")
    listener = start(commitment_retry_max_age_s=1.0)
    (sample,) = stored(listener, make_sample())
    ds = request([sample])
    ask_and_leave(listener, ds)
    assert transactions(listener) == [f"{ds.TransactionUID}.json"]
    wait_for(lambda: transactions(listener) == [])
    assert counted("commitments_given_up_total") == given_up + 1
    assert "giving up, TESTSCU took no report in time" in caplog.text


def test_a_transaction_outlives_the_process(start: Start, requestor: Requestor) -> None:
    listener = start(study_quiet_s=60)
    (sample,) = stored(listener, make_sample())
    ask_and_leave(listener, request([sample]))
    listener.stop()
    listener = start(requestor)
    assert requestor.wait().committed == [sample.sop]


def test_a_damaged_transaction_is_set_aside(start: Start, requestor: Requestor) -> None:
    listener = start(study_quiet_s=60)
    (sample,) = stored(listener, make_sample())
    broken, sound = request([sample]), request([sample])
    for ds in (broken, sound):
        ask_and_leave(listener, ds)
    listener.stop()
    (listener.settings.listener.journal_dir / f"commitments/{broken.TransactionUID}.json").write_bytes(b'{"trans')
    listener = start(requestor)
    assert requestor.wait().transaction == sound.TransactionUID
    wait_for(lambda: transactions(listener) == [f"{broken.TransactionUID}.unreadable"])


def test_ten_thousand_instances_are_one_request(start: Start, requestor: Requestor) -> None:
    listener = start(requestor)
    samples = stored(listener)
    listener.manifest(samples[0].study)
    unknown = [Sample(b"", "", "", f"1.2.826.0.1.3680043.8.498.{number}.{10**20}") for number in range(9_997)]
    begun_s = time.monotonic()
    report = reported(listener, requestor, [*unknown, *samples])
    print(f"10,000 instances: reported after {time.monotonic() - begun_s:.2f} s")
    assert report.failed == {sample.sop: 0x0112 for sample in unknown}
    assert report.committed == [sample.sop for sample in samples]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_requests_and_reports_come_in_each_transfer_syntax(start: Start, requestor: Requestor, syntax: str) -> None:
    listener = start()
    samples = stored(listener)
    with listener.send((StorageCommitmentPushModel, syntax)) as sender:
        requestor.listen_on(sender.assoc)
        assert ask(sender.assoc, request(samples)) == 0x0000
        assert requestor.wait().committed == [sample.sop for sample in samples]


def without(keyword: str) -> Dataset:
    ds = request([make_sample()])
    del ds[keyword]
    return ds


def without_in_item(keyword: str) -> Dataset:
    ds = request([make_sample()])
    del ds.ReferencedSOPSequence[0][keyword]
    return ds


@pytest.mark.parametrize(
    ("ds", "action", "instance", "status"),
    [
        (request([make_sample()]), 1, "1.2.840.10008.1.20.1.2", 0x0112),
        (request([make_sample()]), 2, StorageCommitmentPushModelInstance, 0x0123),
        (request([]), 1, StorageCommitmentPushModelInstance, 0x0115),
        (without("TransactionUID"), 1, StorageCommitmentPushModelInstance, 0x0115),
        (without("ReferencedSOPSequence"), 1, StorageCommitmentPushModelInstance, 0x0115),
        (without_in_item("ReferencedSOPClassUID"), 1, StorageCommitmentPushModelInstance, 0x0115),
        (without_in_item("ReferencedSOPInstanceUID"), 1, StorageCommitmentPushModelInstance, 0x0115),
    ],
)
def test_a_request_that_is_none_is_refused(
    listener: Running, ds: Dataset, action: int, instance: str, status: int
) -> None:
    with listener.send(COMMITMENT) as sender:
        answer, _ = sender.assoc.send_n_action(ds, action, StorageCommitmentPushModel, instance)
        assert answer.Status == status
        assert ask(sender.assoc, request([make_sample()])) == 0x0000  # the association stays usable
    assert len(transactions(listener)) == 1


def test_a_request_to_another_sop_class_is_refused(listener: Running) -> None:
    with listener.send(COMMITMENT) as sender:
        answer, _ = sender.assoc.send_n_action(
            request([make_sample()]),
            1,
            "1.2.840.10008.1.20.2",
            StorageCommitmentPushModelInstance,
            meta_uid=StorageCommitmentPushModel,
        )
        assert answer.Status == 0x0118
    assert transactions(listener) == []


def test_uids_are_reported_as_they_were_asked_for() -> None:
    transaction = Transaction(
        transaction_uid="1.02.3",
        calling_ae_title="TESTSCU",
        called_ae_title="SIMILIS",
        peer_address="127.0.0.1",
        received_at=datetime.now(UTC),
        references=(Reference("1.2.04", "1.2.05"), Reference("1.2.06", "1.2.07")),
    )
    event_type, ds = build_report(transaction, [0x0000, 0x0112])
    assert event_type == 2
    data = encode_report(ds, ImplicitVRLittleEndian)
    assert all(uid in data for uid in (b"1.02.3", b"1.2.04", b"1.2.05", b"1.2.06", b"1.2.07"))


def test_a_request_that_cannot_be_kept_is_refused(listener: Running) -> None:
    folder = listener.settings.listener.journal_dir / "commitments"
    with listener.send(COMMITMENT) as sender:
        folder.rename(folder.with_name("away"))
        assert ask(sender.assoc, request([make_sample()])) == 0x0110
        folder.with_name("away").rename(folder)
        assert transactions(listener) == []
        assert ask(sender.assoc, request([make_sample()])) == 0x0000


def test_a_request_is_refused_before_the_disk_is_full(start: Start) -> None:
    listener = start(min_free_disk_bytes=shutil.disk_usage("/").total * 2)
    with listener.send(COMMITMENT) as sender:
        assert ask(sender.assoc, request([make_sample()])) == 0x0213
    assert transactions(listener) == []


def test_no_more_transactions_are_taken_than_the_settings_allow(start: Start) -> None:
    listener = start(commitment_max_transactions=2)
    with listener.send(COMMITMENT) as sender:
        assert [ask(sender.assoc, request([make_sample()])) for _ in range(3)] == [0x0000, 0x0000, 0x0213]
    assert len(transactions(listener)) == 2


def test_nothing_of_a_patient_is_kept_with_a_transaction(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    listener = start(study_quiet_s=60)
    (sample,) = stored(listener, make_sample(patient_id="SECRET-4711"))
    ds = request([sample])
    ds.PatientID = "SECRET-4711"
    ds.PatientName = "Phantom^Synthetic"
    ask_and_leave(listener, ds)
    text = (listener.settings.listener.journal_dir / f"commitments/{ds.TransactionUID}.json").read_text()
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("pynetdicom"))
    for one in (text, logged):
        assert "SECRET" not in one
        assert "Phantom" not in one


def test_an_awaited_study_closes_after_its_quiet_time_though_an_association_carries_it() -> None:
    now_s = 0.0
    studies = OpenStudies(quiet_s=10, max_age_s=1000, clock=lambda: now_s)
    studies.stored("1.2.3", association=1)
    studies.stored("1.2.4", association=1)
    studies.awaited("1.2.3")
    studies.awaited("1.2.5")  # is not open: there is nothing to close
    assert studies.due() == []
    now_s = 11.0
    assert studies.due() == ["1.2.3"]
    studies.closing("1.2.3")
    studies.stored("1.2.3", association=1)  # what comes later is held open again
    now_s = 22.0
    assert studies.due() == []


def test_addresses_of_requestors_are_read() -> None:
    peers = parse_peers(["CT1=10.1.2.3:104", " PACS ONE = pacs.example.org:11112", "V6=[2001:db8::1]:104"])
    assert peers == {"CT1": ("10.1.2.3", 104), "PACS ONE": ("pacs.example.org", 11112), "V6": ("2001:db8::1", 104)}


@pytest.mark.parametrize(
    "entries",
    [["CT1"], ["CT1=host"], ["=host:104"], [" =host:104"], ["CT1=host:0"], ["CT1=host:65536"], ["CT1=h:1", "CT1=h:2"]],
)
def test_addresses_that_are_none_are_refused(entries: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        parse_peers(entries)
