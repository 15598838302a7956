"""Deliveries that succeed, that are tried again, that are given up; and none that is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from pydicom.uid import generate_uid

from services.explainer.delivery import ClientTls, DeliveryOutbox, DeliverySection, Destination
from services.explainer.delivery.records import DeliveryRecords
from services.explainer.delivery.sending import SendObjects, tls_context
from services.explainer.delivery.transactions import Transaction
from shared.archive import MemoryArchive
from shared.archive.local import LocalArchive
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError, ConfigurationError
from shared.events import ResultKind, StudyExplained
from tests.services.explainer.delivery.explained_study import Opened, objects, record, section, states, stored_in
from tests.services.explainer.delivery.peers import Pacs, free_port, wait_for

# pynetdicom leaves a socket to the garbage collector where a connection is refused.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

UIDS = {result.sop_instance_uid for result in objects()}


@pytest.fixture
def pacs():
    running = Pacs()
    yield running
    running.close()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"destination": "pacs", **labels}) or 0.0


def test_a_delivery_is_done_once_it_is_committed(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    before = counted("similis_delivery_deliveries_total", outcome="committed")
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == UIDS
    assert len(pacs.stored) == 5
    done = json.loads(record(archive, "done"))
    assert done["committed"] is True
    assert done["not_taken"] == []
    wait_for(lambda: counted("similis_delivery_deliveries_total", outcome="committed") == before + 1)
    wait_for(lambda: counted("similis_delivery_waiting") == 0)


def test_a_destination_without_commitment_gets_them_too(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    pacs = Pacs(commitment=False)
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert json.loads(record(archive, "done"))["committed"] is False
    pacs.close()


def test_commitment_that_is_required_and_not_offered_is_a_failure(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    pacs = Pacs(commitment=False)
    outbox(section(pacs.port, commitment="require", give_up_after_s=0.2)).add(explained)
    wait_for(lambda: states(archive) == ["dead"])
    assert "does not offer Storage Commitment" in json.loads(record(archive, "dead"))["reason"]
    assert pacs.stored == []
    pacs.close()


def test_adding_again_delivers_once(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    running = outbox(section(pacs.port))
    running.add(explained)
    wait_for(lambda: states(archive) == ["done"])
    running.add(explained)
    time.sleep(0.3)
    assert len(pacs.stored) == 5
    assert states(archive) == ["done"]


def test_only_the_wanted_kinds_are_sent(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    kinds = (ResultKind.MEASUREMENT_REPORT, ResultKind.SECONDARY_CAPTURE)
    outbox(section(pacs.port, kinds=kinds)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == {result.sop_instance_uid for result in objects() if result.kind in kinds}
    outbox(section(pacs.port, kinds=())).add(explained)
    assert states(archive) == ["done"]


def test_what_the_destination_does_not_take_is_left_out_and_noted(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    taken = {ResultKind.SECONDARY_CAPTURE, ResultKind.MEASUREMENT_REPORT}
    pacs = Pacs(sop_classes=[result.sop_class_uid for result in objects() if result.kind in taken])
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == {result.sop_instance_uid for result in objects() if result.kind in taken}
    assert set(json.loads(record(archive, "done"))["not_taken"]) == {
        result.sop_class_uid for result in objects() if result.kind not in taken
    }
    pacs.close()


def test_a_destination_that_is_away_gets_them_when_it_is_back(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    port = free_port()
    before = counted("similis_delivery_failed_tries_total", reason="unreachable")
    outbox(section(port)).add(explained)
    wait_for(lambda: counted("similis_delivery_failed_tries_total", reason="unreachable") >= before + 2)
    assert states(archive) == ["pending"]
    assert json.loads(record(archive, "pending"))["attempts"] >= 1
    pacs = Pacs(port=port)
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == UIDS
    pacs.close()


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0x0110])
def test_an_object_that_is_refused_is_sent_again(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, status: int
) -> None:
    pacs.statuses = [0x0000, status]
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == UIDS
    assert f"0x{status:04X}" in json.loads(record(archive, "pending"))["last_error"]


def test_a_warning_and_a_duplicate_count_as_stored(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    pacs.statuses = [0xB000, 0x0111]
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert pacs.associations == 1


@pytest.mark.parametrize("how", ["not kept", "silent"])
def test_what_is_not_committed_is_sent_again(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, how: str
) -> None:
    pacs.reports = [how]
    outbox(section(pacs.port, association_wait_s=0.3, commitment_wait_s=0.3)).add(explained)
    # the second request is answered on the association that asked, within its wait
    wait_for(lambda: states(archive) == ["done"])
    assert len(pacs.stored) == 10
    assert json.loads(record(archive, "done"))["committed"] is True
    expected = "0x0110" if how == "not kept" else "no-report"
    assert expected in json.loads(record(archive, "pending"))["last_error"]


def test_a_delivery_is_given_up_after_its_time_and_everything_stays(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    before = counted("similis_delivery_deliveries_total", outcome="dead-lettered")
    outbox(section(free_port(), give_up_after_s=0.3)).add(explained)
    wait_for(lambda: states(archive) == ["dead"])
    dead = json.loads(record(archive, "dead"))
    assert "unreachable" in dead["reason"]
    assert "tries" in dead["reason"]
    assert dead["delivery"]["attempts"] >= 1
    wait_for(lambda: counted("similis_delivery_deliveries_total", outcome="dead-lettered") == before + 1)
    for one in explained.objects:
        assert archive.exists(one.key)


def test_a_dead_delivery_is_tried_again_when_its_record_is_deleted(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    port = free_port()
    first = outbox(section(port, give_up_after_s=0.2))
    first.add(explained)
    wait_for(lambda: states(archive) == ["dead"])
    first.stop()
    [dead] = archive.root.glob("deliveries/*/*.dead.json")
    dead.unlink()
    (archive.root / "deliveries/scanned.json").unlink(missing_ok=True)
    pacs = Pacs(port=port)
    outbox(section(port))
    wait_for(lambda: states(archive) == ["done"])
    pacs.close()


def test_an_object_that_is_gone_from_the_archive_is_a_dead_letter_at_once(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    (archive.root / explained.objects[0].key).unlink()
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["dead"])


@pytest.mark.parametrize("stored", ["another object", "no DICOM"])
def test_where_the_archive_holds_another_object_nothing_is_sent(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, stored: str
) -> None:
    last, other = explained.objects[-1], explained.objects[0]
    archive.put(last.key, archive.get(other.key) if stored == "another object" else b"GIF89a")
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["dead"])
    assert pacs.stored == []
    assert pacs.associations == 0
    reason = json.loads(record(archive, "dead"))["reason"]
    assert last.key in reason
    assert (other.sop_instance_uid if stored == "another object" else "no DICOM object") in reason


def test_an_error_that_nobody_foresaw_is_a_failed_try(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fails = SendObjects._store, [True, True]

    def stumbling(self: SendObjects, *what: object) -> None:
        if fails:
            fails.pop()
            raise KeyError("SECRET")
        store(self, *what)  # type: ignore[arg-type]

    before = counted("similis_delivery_failed_tries_total", reason="unexpected")
    monkeypatch.setattr(SendObjects, "_store", stumbling)
    outbox(section(pacs.port)).add(explained)
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == UIDS
    pending = json.loads(record(archive, "pending"))
    assert pending["attempts"] == 2
    assert "KeyError" in pending["last_error"]
    assert "SECRET" not in pending["last_error"]
    assert counted("similis_delivery_failed_tries_total", reason="unexpected") == before + 2


def test_an_error_that_nobody_foresaw_is_given_up_after_its_time(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise KeyError("SECRET")

    monkeypatch.setattr(SendObjects, "_store", failing)
    outbox(section(pacs.port, give_up_after_s=0.3)).add(explained)
    wait_for(lambda: states(archive) == ["dead"])
    assert "unexpected: KeyError" in json.loads(record(archive, "dead"))["reason"]


def test_an_error_in_taking_note_of_a_failure_ends_no_delivery(
    archive: LocalArchive, explained: StudyExplained, outbox: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, fails = DeliveryRecords.failed, [True, True]  # the failure cannot be noted, nor can that

    def stumbling(self: DeliveryRecords, *what: object) -> object:
        if fails:
            fails.pop()
            raise KeyError("a bug in the records")
        return failed(self, *what)  # type: ignore[arg-type]

    monkeypatch.setattr(DeliveryRecords, "failed", stumbling)
    port = free_port()
    outbox(section(port)).add(explained)
    wait_for(lambda: not fails)
    pacs = Pacs(port=port)
    wait_for(lambda: states(archive) == ["done"])
    pacs.close()


def test_a_destination_that_is_away_does_not_hold_up_another(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened
) -> None:
    one = section(pacs.port)
    away = Destination(name="away", host="127.0.0.1", port=free_port(), called_ae_title="AWAY")
    outbox(one.model_copy(update={"destinations": (away, *one.destinations)})).add(explained)
    wait_for(lambda: states(archive) == ["done", "pending"])


def test_a_killed_process_loses_no_delivery(tmp_path: Path, outbox: Opened, archive: LocalArchive) -> None:
    """Killed between the note and the connection: the destination does not exist yet."""
    port = free_port()
    _run_and_be_killed(tmp_path, archive, port, "os.kill(os.getpid(), signal.SIGKILL)")
    assert states(archive) == ["pending"]
    pacs = Pacs(port=port)
    outbox(section(port))
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == UIDS
    pacs.close()


def test_a_process_killed_in_the_middle_of_sending_loses_no_delivery(
    tmp_path: Path, pacs: Pacs, outbox: Opened, archive: LocalArchive
) -> None:
    import threading

    pacs.hold = threading.Event()
    child = _start(tmp_path, archive, pacs.port, "threading.Event().wait()")
    wait_for(pacs.holding.is_set, 60)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    pacs.hold.set()
    assert states(archive) == ["pending"]
    outbox(section(pacs.port))
    wait_for(lambda: states(archive) == ["done"])
    assert set(pacs.stored) == UIDS


def test_a_process_killed_before_the_report_asks_again(
    tmp_path: Path, pacs: Pacs, outbox: Opened, archive: LocalArchive
) -> None:
    pacs.reports = ["silent"]
    child = _start(tmp_path, archive, pacs.port, "threading.Event().wait()")
    wait_for(lambda: pacs.asked == 1, 60)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert states(archive) == ["pending"]
    outbox(section(pacs.port))
    wait_for(lambda: states(archive) == ["done"])
    assert json.loads(record(archive, "done"))["committed"] is True


def test_a_report_on_a_new_association_is_taken(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Transaction] = []
    request = Transaction.request

    def noted(self: Transaction):
        asked.append(self)
        return request(self)

    monkeypatch.setattr(Transaction, "request", noted)
    pacs.reports = ["silent"]
    running = outbox(section(pacs.port, association_wait_s=0.0, report_port=0))
    assert running.report_port is not None
    running.add(explained)
    wait_for(lambda: len(pacs.stored) == 5 and asked)
    ds = request(asked[0])
    assert pacs.report_by_new_association(ds, running.report_port, calling="STRANGER") is None
    stranger = request(asked[0])
    stranger.TransactionUID = generate_uid()
    assert pacs.report_by_new_association(stranger, running.report_port) == 0x0000
    assert states(archive) == ["pending"]
    assert pacs.report_by_new_association(ds, running.report_port) == 0x0000
    wait_for(lambda: states(archive) == ["done"])
    assert len(pacs.stored) == 5


def test_nothing_is_written_without_a_destination(explained: StudyExplained, archive: LocalArchive) -> None:
    idle = DeliveryOutbox(DeliverySection(), archive)
    idle.start()
    idle.add(explained)
    idle.stop()
    assert list(archive.list("deliveries")) == []


def test_an_archive_that_does_not_answer_is_asked_again(
    pacs: Pacs, explained: StudyExplained, archive: LocalArchive
) -> None:
    class Moody(MemoryArchive):
        def get(self, key: str) -> bytes:
            if key.endswith(".dcm") and fails:
                fails.pop()
                raise ArchiveUnavailableError("not now")
            return super().get(key)

    fails = [True, True]
    moody = Moody()
    running = DeliveryOutbox(section(pacs.port), moody)
    running.start()
    running.add(stored_in(moody))
    wait_for(lambda: states(moody) == ["done"])
    running.stop()


def test_a_scan_reads_only_the_days_that_may_hold_something_unfinished() -> None:
    archive, today = MemoryArchive(), datetime(2026, 3, 10, 12, tzinfo=UTC)
    clock = [today - timedelta(days=9)]
    records = DeliveryRecords(archive, lambda: clock[0])
    destination = section(1).destinations[0]
    for age in (9, 6, 1, 0):
        clock[0] = today - timedelta(days=age)
        made = records.add(stored_in(archive, f"11111111-2222-5333-8444-00000000000{age}"), destination)
        assert made is not None
        if age in (9, 1):
            records.done(made, committed=False)
    found = [delivery.enqueued_at.date().day for delivery in records.pending()]
    assert found == [4, 10]
    assert b"2026-03-04" in archive.get("deliveries/scanned.json")
    # a folder before the mark is not looked into any more, and the mark keeps two days for other clocks
    for delivery in list(records.pending()):
        records.done(delivery, committed=True)
    assert list(records.pending()) == []
    assert b"2026-03-08" in archive.get("deliveries/scanned.json")
    archive.put("deliveries/2026-03-01/x.pending.json", b"not looked at")
    archive.put("deliveries/2026-03-09/y.pending.json", b"not readable, and left alone")
    assert list(records.pending()) == []


def test_what_is_no_record_of_ours_is_skipped(
    pacs: Pacs, archive: LocalArchive, explained: StudyExplained, outbox: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    DeliveryRecords(archive).add(explained, section(pacs.port).destinations[0])
    stray = ("stray.pending.json", "notes/x.pending.json", "2026-13-77/x.pending.json", "2026-01-01/a/b.pending.json")
    for name in stray:
        archive.put(f"deliveries/{name}", b"{}")
    outbox(section(pacs.port))
    wait_for(lambda: set(pacs.stored) == UIDS)
    for name in stray[:3]:
        assert f"deliveries/{name}" in caplog.text


def test_a_record_that_is_deleted_while_records_are_read_is_skipped() -> None:
    class Emptied(MemoryArchive):
        def get(self, key: str) -> bytes:
            if key.endswith(".pending.json"):
                raise ArchiveObjectMissingError(key)
            return super().get(key)

    archive = Emptied()
    records = DeliveryRecords(archive)
    records.add(stored_in(archive), section(1).destinations[0])
    assert list(records.pending()) == []


def test_settings_are_read_from_the_environment_as_json() -> None:
    text = '[{"name": "pacs", "host": "10.0.0.5", "port": 104, "called_ae_title": "PACS", "tls": {}}]'
    made = DeliverySection.model_validate({"destinations": json.loads(text)})
    assert made.destinations[0].commitment == "ask"
    assert made.destinations[0].tls == ClientTls()
    for wrong in ({"called_ae_title": " "}, {"called_ae_title": "A" * 17}, {"name": "Pacs"}, {"port": 0}, {"host": ""}):
        with pytest.raises(ValidationError):
            Destination(**({"name": "p", "host": "h", "port": 1, "called_ae_title": "P"} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="same name"):
        DeliverySection(destinations=(made.destinations[0], made.destinations[0]))


def test_settings_that_cannot_work_are_refused(tmp_path: Path, archive: LocalArchive) -> None:
    with pytest.raises(ConfigurationError, match="no association"):
        DeliveryOutbox(section(104, association_wait_s=0.0), archive)
    with pytest.raises(ConfigurationError, match="tls"):
        tls_context(ClientTls(ca_file=tmp_path / "missing.pem"))
    taken = Pacs()
    with pytest.raises(ConfigurationError, match="REPORT_PORT"):
        DeliveryOutbox(section(104, report_port=taken.port), archive).start()
    taken.close()


CHILD = """
    import os, signal, sys, threading
    from pathlib import Path
    from services.explainer.delivery import DeliveryOutbox, DeliverySection
    from shared.archive.local import LocalArchive
    from shared.events import StudyExplained
    folder = Path(sys.argv[1])
    settings = DeliverySection.model_validate_json((folder / "settings.json").read_text())
    outbox = DeliveryOutbox(settings, LocalArchive(folder / "archive"))
    outbox.start()
    outbox.add(StudyExplained.model_validate_json((folder / "event.json").read_text()))
    {then}
"""


def _start(folder: Path, archive: LocalArchive, port: int, then: str) -> subprocess.Popen[bytes]:
    (folder / "settings.json").write_text(section(port, association_wait_s=30.0).model_dump_json())
    (folder / "event.json").write_text(stored_in(archive).model_dump_json())
    script = folder / "child.py"
    script.write_text(textwrap.dedent(CHILD).format(then=then))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)


def _run_and_be_killed(folder: Path, archive: LocalArchive, port: int, then: str) -> None:
    assert _start(folder, archive, port, then).wait(120) == -signal.SIGKILL
