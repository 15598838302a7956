"""The audit log: what is told, that it is whole lines, and that receiving never waits for it."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from services.listener.answers import Outcome
from services.listener.audit import AuditLog, AuditSection
from services.listener.audit_messages import Messages, Objects, Peer, clean_ae_title, source
from shared.audit.codes import MEANINGS
from shared.audit.line_file import LineFile
from shared.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ALICE, BOB = "a" * 32, "b" * 32
PEER = Peer("10.1.2.3", "CT1", "SIMILIS", "f" * 64)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

Record = dict[str, Any]
Open = Callable[..., AuditLog]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "audit.jsonl"


@pytest.fixture
def open_log(path: Path) -> Iterator[Open]:
    logs: list[AuditLog] = []

    def start(**options: Any) -> AuditLog:
        beside = {name: options.pop(name) for name in ("on_dropped", "monotonic") if name in options}
        section = AuditSection.model_validate({"file": path, **options})
        logs.append(AuditLog(section, ae_title="SIMILIS", source_id="node", now=lambda: NOON, **beside))
        return logs[-1]

    yield start
    for log in logs:
        log.close()


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def told(path: Path) -> list[Record]:
    """Records but those of the log's own beginning and end."""
    own = {"110120", "110121", "110133", "110134"}
    return [record for record in read(path) if event_type(record) not in own]


def event_type(record: Record) -> str:
    types = record["EventIdentification"].get("EventTypeCode", [{"csd-code": ""}])
    code: str = types[0]["csd-code"]
    return code


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


# What is told


def test_start_and_stop_are_told(path: Path, open_log: Open) -> None:
    log = open_log()
    log.close()
    log.close()
    records = read(path)
    assert [event_type(record) for record in records] == ["110120", "110134", "110121", "110133"]
    assert records[0] == {
        "EventIdentification": {
            "EventID": {"csd-code": "110100", "codeSystemName": "DCM", "originalText": "Application Activity"},
            "EventActionCode": "E",
            "EventDateTime": "2026-01-02T12:00:00.000+00:00",
            "EventOutcomeIndicator": 0,
            "EventTypeCode": [{"csd-code": "110120", "codeSystemName": "DCM", "originalText": "Application Start"}],
        },
        "ActiveParticipant": [
            {
                "UserID": str(os.getpid()),
                "AlternativeUserID": "AETITLES=SIMILIS",
                "UserIsRequestor": False,
                "NetworkAccessPointTypeCode": "1",
                "NetworkAccessPointID": "node",
                "RoleIDCode": [{"csd-code": "110150", "codeSystemName": "DCM", "originalText": "Application"}],
            }
        ],
        "AuditSourceIdentification": {"AuditSourceID": "node", "AuditSourceTypeCode": [{"csd-code": "4"}]},
    }
    assert "durable every 1 s" in json.dumps(records[1])


def test_a_transfer_names_both_ends_the_study_its_counts_and_a_pseudonym(path: Path, open_log: Open) -> None:
    log = open_log()
    log.association_ended(PEER, {("1.2", ALICE, CT, Outcome.STORED): 120, ("1.2", ALICE, MR, Outcome.STORED): 3})
    log.close()
    [record] = told(path)
    event = record["EventIdentification"]
    assert event["EventID"]["csd-code"] == "110104"
    assert (event["EventActionCode"], event["EventOutcomeIndicator"]) == ("C", 0)
    assert event["EventOutcomeDescription"] == "stored: 123"
    sender, receiver = record["ActiveParticipant"]
    assert sender["AlternativeUserID"] == "AETITLES=CT1"
    assert (sender["NetworkAccessPointTypeCode"], sender["NetworkAccessPointID"]) == ("2", "10.1.2.3")
    assert (sender["UserIsRequestor"], receiver["UserIsRequestor"]) == (True, False)
    assert sender["RoleIDCode"][0]["originalText"] == "Source Role ID"
    assert receiver["RoleIDCode"][0]["originalText"] == "Destination Role ID"
    study, patient = record["ParticipantObjectIdentification"]
    assert study["ParticipantObjectID"] == "1.2"
    assert study["SOPClass"] == [{"UID": CT, "NumberOfInstances": 120}, {"UID": MR, "NumberOfInstances": 3}]
    assert study["ParticipantObjectDetail"] == [{"type": "TLS Certificate SHA-256", "value": "f" * 64}]
    assert patient["ParticipantObjectID"] == ALICE


def test_a_record_tells_of_one_patient_one_study_and_one_outcome(path: Path, open_log: Open) -> None:
    """PS3.15 A.5.3.7 (a single patient) and table A.5.2-1 (no mixed results)."""
    log = open_log()
    log.association_ended(
        PEER,
        {
            ("1.2", ALICE, CT, Outcome.STORED): 5,
            ("1.2", ALICE, CT, Outcome.DUPLICATE): 2,
            ("1.2", ALICE, CT, Outcome.CONFLICT): 1,
            ("1.2", ALICE, MR, Outcome.MISMATCH): 4,
            ("1.2", ALICE, CT, Outcome.NO_SPACE): 3,
            ("1.2", BOB, CT, Outcome.STORED): 7,
            ("1.3", BOB, CT, Outcome.STORED): 8,
            ("", "", CT, Outcome.MALFORMED): 9,
        },
    )
    log.close()
    found = {
        (
            record["ParticipantObjectIdentification"][0]["ParticipantObjectID"],
            record["ParticipantObjectIdentification"][1]["ParticipantObjectID"],
            record["EventIdentification"]["EventActionCode"],
            record["EventIdentification"]["EventOutcomeIndicator"],
            record["EventIdentification"]["EventOutcomeDescription"],
        )
        for record in told(path)
    }
    assert found == {
        ("1.2", ALICE, "C", 0, "stored: 5"),
        ("1.2", ALICE, "R", 0, "duplicate: 2"),
        ("1.2", ALICE, "C", 4, "conflict: 1, mismatch: 4"),
        ("1.2", ALICE, "C", 8, "no-space: 3"),
        ("1.2", BOB, "C", 0, "stored: 7"),
        ("1.3", BOB, "C", 0, "stored: 8"),
        ("<none>", "<none>", "C", 4, "malformed: 9"),
    }


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_of_an_object_is_told(outcome: Outcome) -> None:
    messages = Messages(source(ae_title="SIMILIS", source_id="node"))
    [record] = messages.transferred(NOON, PEER, {("1.2", ALICE, CT, outcome): 1})
    assert record["EventIdentification"]["EventOutcomeDescription"] == f"{outcome.value}: 1"
    accepted = record["EventIdentification"]["EventOutcomeIndicator"] == 0
    assert accepted is (outcome in (Outcome.STORED, Outcome.DUPLICATE, Outcome.SET_ASIDE))


def test_a_storage_commitment_is_told_with_its_failures(path: Path, open_log: Open) -> None:
    log = open_log()
    log.commitment_answered(
        PEER, "1.9", {("1.2", ALICE, CT, 0): 3, ("1.2", ALICE, CT, 0x0112): 1, ("", "", CT, 0x0112): 2}
    )
    log.close()
    found = [
        (
            record["EventIdentification"]["EventActionCode"],
            record["EventIdentification"]["EventOutcomeIndicator"],
            record["EventIdentification"]["EventOutcomeDescription"],
            record["ParticipantObjectIdentification"][0]["ParticipantObjectID"],
            record["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"][-1]["value"],
        )
        for record in told(path)
    ]
    assert found == [
        ("R", 0, "committed: 3", "1.2", "1.9"),
        ("R", 4, "failure 0x0112: 1", "1.2", "1.9"),
        ("R", 4, "failure 0x0112: 2", "<none>", "1.9"),
    ]


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("calling-ae-title", "110126"),
        ("peer-address", "110126"),
        ("no-certificate", "110126"),
        ("called-ae-title", "110147"),
        ("association-limit", "110147"),
        ("peer-limit", "110147"),
    ],
)
def test_a_refusal_is_a_security_alert(path: Path, open_log: Open, why: str, code: str) -> None:
    log = open_log()
    log.association_refused(PEER, why)
    log.close()
    [record] = told(path)
    assert record["EventIdentification"]["EventID"]["originalText"] == "Security Alert"
    assert record["EventIdentification"]["EventOutcomeIndicator"] == 4
    assert event_type(record) == code
    reporting, performing = record["ActiveParticipant"]
    assert reporting["UserID"] == str(os.getpid())
    assert (performing["UserID"], performing["UserIsRequestor"]) == ("CT1", False)
    [node] = record["ParticipantObjectIdentification"]
    assert node["ParticipantObjectID"] == "10.1.2.3"
    assert node["ParticipantObjectDetail"][0] == {"type": "Alert Description", "value": f"refused: {why}"}


def test_codes_are_those_of_the_standard() -> None:
    """PS3.16 CID 400 (events), 401 and 403 (types), 402 (roles), 404 (objects), as pydicom has them."""
    known = {
        (code, meaning)
        for cid in (400, 401, 402, 403, 404)
        for name in cid_concepts[cid]["DCM"]
        for code, (meaning, _) in concepts["DCM"][name].items()
    }
    assert {(str(code), meaning) for code, meaning in MEANINGS.items()} <= known
    alerts = {code for name in cid_concepts[403]["DCM"] for code in concepts["DCM"][name]}
    assert {"110126", "110133", "110134", "110147"} <= alerts


def test_an_association_without_objects_is_told_only_where_asked_for(path: Path, open_log: Open) -> None:
    log = open_log()
    log.association_accepted(PEER)
    log.association_ended(PEER, {})
    log.close()
    assert told(path) == []
    log = open_log(accepted=True)
    log.association_accepted(PEER)
    log.close()
    [record] = told(path)
    assert (event_type(record), record["EventIdentification"]["EventOutcomeIndicator"]) == ("110126", 0)


def test_a_peer_without_ae_titles_is_named_by_its_address(path: Path, open_log: Open) -> None:
    """STOW-RS knows none, nor does a connection that is refused at once."""
    log = open_log()
    log.association_ended(Peer("::ffff:10.1.2.3"), {("1.2", ALICE, CT, Outcome.STORED): 1})
    log.close()
    [record] = told(path)
    sender, receiver = record["ActiveParticipant"]
    assert sender["UserID"] == sender["NetworkAccessPointID"] == "10.1.2.3"
    assert "AlternativeUserID" not in sender
    assert receiver["AlternativeUserID"] == "AETITLES=SIMILIS"


# Repeats


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_like_refusals_are_told_once_and_then_as_a_number(path: Path, open_log: Open) -> None:
    clock = Clock()
    log = open_log(monotonic=clock, repeat_s=60)
    for _ in range(5):
        log.association_refused(PEER, "calling-ae-title")
    log.association_refused(PEER, "no-certificate")
    log.association_refused(Peer("10.1.2.4"), "calling-ae-title")
    wait_for(lambda: len(told(path)) == 3)
    clock.now_s += 61
    log.association_refused(PEER, "no-certificate")
    wait_for(lambda: len(told(path)) == 5)
    log.close()
    descriptions = [
        record["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"][0]["value"] for record in told(path)
    ]
    assert descriptions.count("refused: calling-ae-title") == 2
    assert descriptions.count("refused: calling-ae-title, 4 more times") == 1


def test_repeats_are_told_at_the_end_at_the_latest(path: Path, open_log: Open) -> None:
    log = open_log()
    for _ in range(3):
        log.association_refused(PEER, "no-certificate")
    log.close()
    assert [
        record["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"][0]["value"] for record in told(path)
    ] == ["refused: no-certificate", "refused: no-certificate, 2 more times"]


def test_a_flood_from_many_addresses_stays_bounded(path: Path, open_log: Open) -> None:
    log = open_log(queue_records=100_000)
    for number in range(5000):
        log.association_refused(Peer(f"10.0.{number // 250}.{number % 250}"), "calling-ae-title")
    log.close()
    records = told(path)
    assert len(records) == 1002  # a thousand addresses, the others together, and their number
    details = records[-1]["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"]
    assert details[0]["value"] == "refused: calling-ae-title, 3999 more times"


# Nothing but whole lines, and nobody's name

ANYTHING = st.text(st.characters(codec=None), max_size=80) | st.sampled_from(
    ['"}\n{"EventID":1}', "CT1\r\n", "\u2028CT", "CT\x00\x00", "A\\", "\ud800", "DOE^JOHN"]
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    address=ANYTHING, calling=ANYTHING, called=ANYTHING, fingerprint=ANYTHING | st.none(), why=ANYTHING, uid=ANYTHING
)
def test_nothing_a_stranger_sends_breaks_a_line(
    tmp_path: Path, address: str, calling: str, called: str, fingerprint: str | None, why: str, uid: str
) -> None:
    path = tmp_path / "audit.jsonl"
    path.unlink(missing_ok=True)
    log = AuditLog(AuditSection(file=path), ae_title="SIMILIS", source_id="node")
    peer = Peer(address, calling, called, fingerprint)
    log.association_refused(peer, why)
    log.association_ended(peer, {(uid, uid, uid, Outcome.STORED): 1})
    log.commitment_answered(peer, uid, {(uid, uid, uid, 1): 1})
    log.close()
    content = path.read_bytes()
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in content)
    assert content.endswith(b"\n")
    records = [json.loads(line) for line in content.split(b"\n")[:-1]]
    assert len(records) == 7
    for record in records:
        for participant in record["ActiveParticipant"]:
            title = participant.get("AlternativeUserID", "AETITLES=").removeprefix("AETITLES=")
            assert len(title) <= 16
            assert "\\" not in title


@given(title=st.text(max_size=40))
def test_a_cleaned_title_is_an_ae_title(title: str) -> None:
    cleaned = clean_ae_title(title)
    assert len(cleaned) <= 16
    assert all(" " <= character <= "~" and character != "\\" for character in cleaned)
    assert clean_ae_title(cleaned) == cleaned


@pytest.mark.parametrize(
    "identity", ["DOE^JOHN", "PID-4711", "19700101", "C" * 32, "c" * 31, "c" * 33, "c" * 32 + "\n"]
)
def test_no_patient_identity_enters(
    path: Path, open_log: Open, caplog: pytest.LogCaptureFixture, identity: str
) -> None:
    log = open_log()
    log.association_ended(PEER, {("1.2", identity, CT, Outcome.STORED): 1})
    log.commitment_answered(PEER, "1.9", {("1.2", identity, CT, 0): 1})
    log.association_ended(PEER, {(identity, ALICE, identity, Outcome.REFUSED): 1})
    log.close()
    records = told(path)
    assert [record["ParticipantObjectIdentification"][1]["ParticipantObjectID"] for record in records] == [
        "<none>",
        "<none>",
        ALICE,
    ]
    if not identity.isdigit():  # which a UID may be
        assert identity.strip() not in path.read_text()
    assert identity.strip() not in caplog.text
    assert "no pseudonym" in caplog.text


# The file


def test_the_file_is_its_owners_alone_and_appended_to(path: Path, open_log: Open) -> None:
    open_log().close()
    open_log().close()
    assert len(read(path)) == 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("rotate", ["rename", "rename and create", "copy and truncate", "remove"])
def test_a_rotated_file_is_left_for_the_new_one(path: Path, open_log: Open, rotate: str) -> None:
    log = open_log()
    log.association_refused(PEER, "no-certificate")
    wait_for(lambda: len(read(path)) == 3)
    old = path.with_suffix(".1")
    if rotate == "remove":
        path.unlink()
    elif rotate == "copy and truncate":
        old.write_bytes(path.read_bytes())
        os.truncate(path, 0)
    else:
        path.rename(old)
        if rotate == "rename and create":
            path.touch(0o640)
    log.association_refused(Peer("10.9.9.9"), "no-certificate")
    wait_for(lambda: path.exists() and path.stat().st_size)
    log.close()
    assert "10.9.9.9" in json.dumps(read(path)[0])
    if rotate != "remove":
        assert "10.9.9.9" not in old.read_text()
    if rotate == "rename and create":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_line_that_was_cut_off_spoils_no_other(path: Path, open_log: Open) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"EventIdentification":{"Ev')
    open_log().close()
    first, *others = path.read_text().splitlines()
    assert first == '{"EventIdentification":{"Ev'
    assert len([json.loads(line) for line in others]) == 4


@pytest.mark.parametrize("make", [lambda path: path.mkdir(parents=True), lambda path: os.mkfifo(path)])
def test_what_is_no_file_is_refused_at_start(path: Path, open_log: Open, make: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    make(path)
    with pytest.raises(ConfigurationError, match=r"audit\.jsonl"):
        open_log()


def test_without_a_file_nothing_happens() -> None:
    dropped: list[int] = []
    before = threading.active_count()
    log = AuditLog(AuditSection(), ae_title="SIMILIS", on_dropped=dropped.append)
    assert threading.active_count() == before
    log.association_refused(PEER, "no-certificate")
    log.association_ended(PEER, {("1.2", ALICE, CT, Outcome.STORED): 1})
    log.close()
    assert not dropped


def test_several_processes_share_a_file(path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from services.listener.answers import Outcome
        from services.listener.audit import AuditLog, AuditSection
        from services.listener.audit_messages import Peer
        log = AuditLog(AuditSection(file=Path(sys.argv[1])), ae_title="SIMILIS")
        for number in range(500):
            objects = {("1.2", "a" * 32, "1.2.3", Outcome.STORED): number + 1}
            log.association_ended(Peer("10.0.0.1", f"CT{number}"), objects)
        log.close()
    """)
    processes = [subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(told(path)) == 1500


# The disk fails, or hangs


def test_a_full_disk_neither_stops_nor_blocks_and_is_told_of_afterwards(path: Path) -> None:
    """The kernel fails the writes, in the midst of a line too: the process's limit on a file's size."""
    code = textwrap.dedent("""
        import json, logging, resource, sys, time
        from pathlib import Path
        from services.listener.answers import Outcome
        from services.listener.audit import AuditLog, AuditSection
        from services.listener.audit_messages import Peer

        class Errors(logging.Handler):
            count = 0
            def emit(self, record):
                self.count += 1
        errors = Errors(logging.ERROR)
        logging.getLogger().addHandler(errors)

        path, hard = Path(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        dropped = []
        log = AuditLog(AuditSection(file=path, queue_records=50), ae_title="SIMILIS", on_dropped=dropped.append)
        while path.stat().st_size == 0:
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        slowest_s = 0.0
        for number in range(200):
            started_s = time.perf_counter()
            log.association_ended(Peer("10.0.0.1", f"CT{number}"), {("1.2", "a" * 32, "1.2.3", Outcome.STORED): 1})
            slowest_s = max(slowest_s, time.perf_counter() - started_s)
            time.sleep(0.005)
        full = len(dropped)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        time.sleep(1.5)
        log.close()
        print(json.dumps([full, sum(dropped), errors.count, slowest_s]))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    full, dropped, errors, slowest_s = json.loads(done.stdout)
    assert 0 < full == dropped
    assert errors == 1
    assert slowest_s < 0.5
    whole, torn = [], []
    for line in path.read_text().splitlines():
        try:
            whole.append(json.loads(line))
        except json.JSONDecodeError:
            torn.append(line)
    assert len(torn) >= 1
    [lost] = [record for record in whole if record["EventIdentification"]["EventOutcomeIndicator"] == 8]
    assert event_type(lost) == "110134"
    assert f"{dropped} audit records were lost" in json.dumps(lost)
    transferred = [record for record in whole if record["EventIdentification"]["EventID"]["csd-code"] == "110104"]
    assert len(transferred) + dropped == 200


class HangingFile(LineFile):
    """A file on a disk that does not answer."""

    answers: threading.Event

    def append(self, line: bytes) -> None:
        self.answers.wait(30)
        super().append(line)


def test_a_hanging_disk_holds_nobody_up(path: Path, open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    HangingFile.answers = threading.Event()
    monkeypatch.setattr("shared.audit.recorder.LineFile", HangingFile)
    dropped: list[int] = []
    log = open_log(queue_records=10, on_dropped=dropped.append)
    time.sleep(0.1)  # the writer hangs with its first record
    started_s = time.monotonic()
    for _ in range(1000):
        log.association_ended(PEER, {("1.2", ALICE, CT, Outcome.STORED): 1})
    assert time.monotonic() - started_s < 1
    assert sum(dropped) == 990
    log.close(patience_s=0.1)
    assert time.monotonic() - started_s < 2
    HangingFile.answers.set()
    log.close()
    assert len(told(path)) == 10
    log.association_refused(PEER, "no-certificate")
    assert sum(dropped) == 991, "what comes after the end is lost, and says so"


def test_a_process_ends_though_the_disk_hangs(path: Path) -> None:
    code = textwrap.dedent("""
        import sys, threading
        from pathlib import Path
        from services.listener import audit
        from shared.audit import recorder
        class HangingFile(recorder.LineFile):
            def append(self, line):
                threading.Event().wait()
        recorder.LineFile = HangingFile
        log = audit.AuditLog(audit.AuditSection(file=Path(sys.argv[1])), ae_title="SIMILIS")
        log.close(patience_s=0.1)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, timeout=30, check=True, capture_output=True, text=True
    )
    assert "did not end in time" in done.stderr


def test_what_a_failing_disk_never_took_counts_as_lost(path: Path, open_log: Open) -> None:
    dropped: list[int] = []
    log = open_log(on_dropped=dropped.append)
    wait_for(lambda: len(read(path)) == 2)
    path.parent.rename(path.parent.with_name("away"))
    path.parent.write_text("no folder")
    log.association_refused(PEER, "no-certificate")
    log.close()
    assert sum(dropped) == 3  # the refusal, and the two of the end


def test_a_record_that_cannot_be_made_costs_only_itself(path: Path, open_log: Open) -> None:
    dropped: list[int] = []
    log = open_log(on_dropped=dropped.append)
    wrong: Objects = {("1.2", ALICE, CT, "no outcome"): 1}  # type: ignore[dict-item]
    log.association_ended(PEER, wrong)
    log.association_ended(PEER, {("1.2", ALICE, CT, Outcome.STORED): 1})
    log.close()
    assert dropped == [1]
    assert len(told(path)) == 1


@pytest.mark.parametrize("policy", ["each", "interval"])
def test_records_are_made_durable_by_the_policy(
    path: Path, open_log: Open, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    durable: list[int] = []

    class WatchedFile(LineFile):
        def sync(self) -> None:
            super().sync()
            durable.append(len(read(path)))

    monkeypatch.setattr("shared.audit.recorder.LineFile", WatchedFile)
    log = open_log(fsync=policy, fsync_s=0.3)
    for number in range(1, 6):
        log.association_ended(PEER, {("1.2", ALICE, CT, Outcome.STORED): 1})
        wait_for(lambda expected=2 + number: len(read(path)) == expected)
    if policy == "each":
        wait_for(lambda: durable and durable[-1] == 7)
        assert len(durable) >= 5
    else:
        wait_for(lambda: durable and durable[-1] == 7)  # though nothing follows
        assert len(durable) < 5
    log.close()
    assert durable[-1] == 9


def test_a_failing_disk_is_logged_once_until_it_works_again(
    path: Path, open_log: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = open_log()
    wait_for(lambda: len(read(path)) == 2)
    away = path.parent.with_name("away")
    path.parent.rename(away)
    path.parent.write_text("no folder")
    log.association_refused(PEER, "no-certificate")
    wait_for(lambda: "cannot be written" in caplog.text)
    time.sleep(1.2)
    path.parent.unlink()
    away.rename(path.parent)
    wait_for(lambda: len(read(path)) == 3)
    wait_for(lambda: "written again" in caplog.text)
    assert caplog.text.count("cannot be written") == 1
    log.close()
    assert "were lost" not in path.read_text(), "it waited"
