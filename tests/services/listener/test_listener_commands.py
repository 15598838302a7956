"""`similis listener` and its commands: what they print, to whom, and how they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crosswalk_child import KEY, pseudonym
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from typer.testing import CliRunner

import services.listener.app
from services.cli import app
from services.listener.crosswalk import Crosswalk
from services.listener.elements import BytesSource
from services.listener.header import read_header
from services.listener.reidentify import look_up
from services.listener.rules_command import Sender, facts_of
from shared.pseudonym import Pseudonyms

RULES = """\
rules:
  - name: no phantoms
    when: {calling_ae: QA*, body_part: BRAIN}
    then: drop
  - name: no strangers
    when: {peer: 192.0.2.0/24}
    then: refuse
    status: 0xA900
  - name: no big endian
    when: {transfer_syntax: ExplicitVRBigEndian}
    then: refuse
default: accept
"""
SECRETS = ("Phantom", "Synthetic", "PHANTOM-1", "1964", "SECRET")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RULES_FILE", "AE_TITLE", "CROSSWALK_FILE", "CROSSWALK_KEY_FILE", "PSEUDONYM_KEY_FILE"):
        monkeypatch.delenv(f"SIMILIS_LISTENER__{name}", raising=False)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["listener", *map(str, arguments)])


def make_dataset() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.SOPInstanceUID = "1.2.3.4"
    ds.StudyDate = "20250310"
    ds.Modality = "MR"
    ds.PatientName = "Phantom^Synthetic"
    ds.PatientID = "PHANTOM-1"
    ds.PatientBirthDate = "19640311"
    ds.BodyPartExamined = "BRAIN"
    ds.StudyInstanceUID = "1.2"
    ds.SeriesInstanceUID = "1.2.3"
    ds.PixelData = b"\1\0" * 8
    ds["PixelData"].VR = "OW"
    return ds


def save(ds: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.file_meta.SendingApplicationEntityTitle = "SECRETAE"
    ds.save_as(path, enforce_file_format=True)
    return path


def split(path: Path) -> tuple[bytes, bytes]:
    """A file's head and its data set."""
    file = path.read_bytes()
    start = 144 + int.from_bytes(file[140:144], "little")
    return file[:start], file[start:]


def write_file(path: Path, transfer_syntax: str = ExplicitVRLittleEndian, **values: object) -> Path:
    ds = make_dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return save(ds, path, transfer_syntax)


@pytest.fixture
def mr(tmp_path: Path) -> Path:
    return write_file(tmp_path / "mr.dcm")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


# The group


def test_the_bare_command_still_runs_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr(services.listener.app, "main", lambda: runs.append(1))
    assert run().exit_code == 0
    assert runs == [1]


def test_a_command_of_the_group_does_not_run_the_service(
    monkeypatch: pytest.MonkeyPatch, mr: Path, rules: Path
) -> None:
    monkeypatch.setattr(services.listener.app, "main", lambda: pytest.fail("the service ran"))
    assert run("test-rules", mr, "--rules", rules).exit_code == 0


def test_the_group_lists_its_commands() -> None:
    text = run("--help").output
    assert all(command in text for command in ("test-rules", "reidentify", "forget"))


# test-rules


@pytest.mark.parametrize(
    ("options", "exit_code", "expected"),
    [
        ([], 0, "accept by default at {rules}:12"),
        (["--calling", "QA1"], 3, "drop with 0x0000 by rule 'no phantoms' at {rules}:2"),
        (["--ip", "192.0.2.9"], 4, "refuse with 0xA900 by rule 'no strangers' at {rules}:5"),
        (["--calling", "QA1", "--ip", "192.0.2.9"], 3, "drop with 0x0000 by rule 'no phantoms' at {rules}:2"),
    ],
)
def test_it_names_the_rule_that_decides(
    mr: Path, rules: Path, options: list[str], exit_code: int, expected: str
) -> None:
    done = run("test-rules", mr, "--rules", rules, *options)
    assert done.stdout.startswith(f"{mr}: {expected.format(rules=rules)}\n")
    assert done.exit_code == exit_code


def test_it_shows_what_the_rules_saw_and_nothing_of_the_patient(mr: Path, rules: Path) -> None:
    done = run("test-rules", mr, "--rules", rules, "--calling", "CT1", "--ip", "10.0.0.1", "--called", "THERE")
    assert "from 'CT1' at 10.0.0.1 to 'THERE': MRImageStorage (1.2.840.10008.5.1.4.1.1.4)" in done.stdout
    assert "in ExplicitVRLittleEndian (1.2.840.10008.1.2.1), modality MR, body part BRAIN" in done.stdout
    assert not any(secret in done.output for secret in SECRETS)


@pytest.mark.filterwarnings("ignore:.*nvalid value")
def test_a_name_in_a_code_or_a_uid_is_not_printed(tmp_path: Path, rules: Path) -> None:
    coded = write_file(tmp_path / "a.dcm", Modality="SECRET^JANE", BodyPartExamined="SECRET^JANE")
    done = run("test-rules", coded, "--rules", rules)
    assert "modality OT, body part none" in done.stdout
    named = write_file(tmp_path / "b.dcm", SOPClassUID="SECRET^JANE")
    other = run("test-rules", named, "--rules", rules)
    assert "b.dcm: cannot be read: its SOP Class UID is missing or no UID" in other.stderr
    assert other.exit_code == 1
    assert not any(secret in done.output + other.output for secret in SECRETS)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_pydicom_says_of_a_value_is_not_printed(tmp_path: Path, mr: Path, rules: Path) -> None:
    file = mr.read_bytes()
    # As long as the transfer syntax's UID; and a character set that there is not.
    odd = [file.replace(b"1.2.840.10008.1.2.1\0", b"SECRET^JANE^OF^WARD7")]
    ds = make_dataset()
    ds.SpecificCharacterSet = "SECRET_JANE"
    odd.append(save(ds, tmp_path / "x.dcm").read_bytes())
    for content in odd:
        assert b"SECRET^JANE" in content or b"SECRET_JANE" in content
        mr.write_bytes(content)
        done = shell("listener", "test-rules", str(mr), "--rules", str(rules))
        assert "SECRET" not in done.stdout + done.stderr


def test_pydicom_itself_prints_nothing(tmp_path: Path, mr: Path, rules: Path) -> None:
    implicit = split(write_file(tmp_path / "implicit.dcm", "1.2.840.10008.1.2"))[1]
    mr.write_bytes(split(mr)[0] + implicit)  # which it warns of
    done = shell("listener", "test-rules", str(mr), "--rules", str(rules))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_worst_of_several_files_is_the_exit_status(tmp_path: Path, mr: Path, rules: Path) -> None:
    big = write_file(tmp_path / "big.dcm", ExplicitVRBigEndian)
    assert run("test-rules", mr, big, mr, "--rules", rules, "--calling", "X").exit_code == 4
    done = run("test-rules", mr, big, "--rules", rules, "--calling", "QA1")
    assert done.exit_code == 3
    assert done.stdout.count("no phantoms") == 2


@pytest.mark.parametrize("content", [None, b"", b"SECRET" * 100, b"\0" * 128 + b"DICM" + b"SECRET" * 50])
def test_what_is_no_dicom_file_is_said_and_the_others_are_judged(
    tmp_path: Path, mr: Path, rules: Path, content: bytes | None
) -> None:
    bad = tmp_path / "bad.dcm"
    if content is not None:
        bad.write_bytes(content)
    done = run("test-rules", bad, mr, "--rules", rules, "--calling", "QA1")
    assert done.exit_code == 1
    assert f"{bad}: cannot be read: " in done.stderr
    assert "drop" in done.stdout
    assert "SECRET" not in done.output


def test_rules_and_title_come_from_the_listener_s_settings(
    mr: Path, rules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMILIS_LISTENER__RULES_FILE", str(rules))
    monkeypatch.setenv("SIMILIS_LISTENER__AE_TITLE", "ARCHIVE")
    done = run("test-rules", mr)
    assert done.exit_code == 0
    assert "to 'ARCHIVE'" in done.stdout


def test_wrong_rules_end_with_2_and_name_their_place(mr: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("default: yes\nruls: []\n")
    done = shell("listener", "test-rules", str(mr), "--rules", str(wrong))
    assert done.returncode == 2
    assert f"{wrong}:1:10: expected accept, drop or refuse, found 'yes'" in done.stderr
    assert f"{wrong}:2:1: 'ruls' is no key of a rules file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--rules", "RULES", "--ip", "here"]])
def test_missing_rules_or_a_wrong_address_end_with_2(mr: Path, rules: Path, options: list[str]) -> None:
    done = shell("listener", "test-rules", str(mr), *(str(rules) if one == "RULES" else one for one in options))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def shell(*arguments: str) -> Any:
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.filterwarnings("ignore:.*nvalid value")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    modality=st.sampled_from(["CT", "mr ", "NO", " US", "CT\\MR", "", "Jane^Doe", "M3D"]),
    body_part=st.sampled_from(["BRAIN", "brain", "WHOLE BODY", "C_SPINE", "", "Jane^Doe", "HEAD\\NECK"]),
    transfer_syntax=st.sampled_from(
        [ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2"]
    ),
)
def test_the_command_sees_what_the_listener_sees(
    tmp_path: Path, modality: str, body_part: str, transfer_syntax: str
) -> None:
    path = write_file(tmp_path / "x.dcm", transfer_syntax, Modality=modality, BodyPartExamined=body_part)
    facts = facts_of(path, Sender("CT1", "SIMILIS", "10.0.0.1"))
    header, _ = read_header(BytesSource(split(path)[1]), transfer_syntax, Pseudonyms(b"k" * 32), max_bytes=1 << 20)
    assert (facts.modality, facts.body_part) == (header.modality, header.body_part)
    assert (facts.sop_class, facts.transfer_syntax) == (header.sop_class_uid, transfer_syntax)


# reidentify and forget

ANNA, BEN = pseudonym("ANNA-1"), pseudonym("BEN-2")


@pytest.fixture
def crosswalk(tmp_path: Path) -> list[object]:
    (tmp_path / "key").write_bytes(KEY)
    opened = Crosswalk(tmp_path / "crosswalk", KEY)
    opened.note(ANNA, "HOSPITAL", "ANNA-1\x1b[2J日", "1.2.3")
    opened.note(BEN, "", "", "1.2.840.7")
    opened.close()
    return ["--crosswalk", tmp_path / "crosswalk", "--key", tmp_path / "key"]


def test_reidentify_prints_the_patient_to_standard_output_alone(
    crosswalk: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    done = run("reidentify", ANNA, BEN.upper(), *crosswalk)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"{ANNA}: Patient ID 'ANNA-1\\x1b[2J日', issuer 'HOSPITAL'",
        f"{BEN}: no Patient ID, the study '1.2.840.7' stands in",
    ]
    assert done.stderr == ""
    assert caplog.text == ""


def test_reidentify_says_what_it_does_not_know(crosswalk: list[object]) -> None:
    done = run("reidentify", "0" * 32, ANNA, *crosswalk)
    assert done.exit_code == 3
    assert "ANNA-1" in done.stdout
    assert done.stderr == f"{'0' * 32}: not in the crosswalk\n"


def test_reidentify_says_that_records_are_damaged(crosswalk: list[object], tmp_path: Path) -> None:
    path = tmp_path / "crosswalk"
    content = bytearray(path.read_bytes())
    content[content.index(ANNA.encode()) + 50] ^= 1
    path.write_bytes(content)
    done = run("reidentify", ANNA, *crosswalk)
    assert done.exit_code == 3
    assert "1 records of the crosswalk are damaged" in done.stderr


def test_a_terminal_that_lacks_a_letter_gets_it_escaped(crosswalk: list[object]) -> None:
    command = [sys.executable, "-m", "services.cli", "listener", "reidentify", ANNA, *map(str, crosswalk)]
    env = {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5" in done.stdout


@pytest.mark.parametrize("command", ["reidentify", "forget"])
@pytest.mark.parametrize("wrong", ["pseudonym", "key", "missing key", "missing file"])
def test_what_cannot_be_used_ends_with_2(tmp_path: Path, crosswalk: list[object], command: str, wrong: str) -> None:
    if wrong == "key":
        (tmp_path / "key").write_bytes(b"w" * 32)
    elif wrong == "missing key":
        (tmp_path / "key").unlink()
    elif wrong == "missing file":
        (tmp_path / "crosswalk").unlink()
    who = "ANNA-1" if wrong == "pseudonym" else ANNA
    done = shell("listener", command, who, *map(str, crosswalk))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_forget_removes_and_says_that_backups_have_it(crosswalk: list[object], tmp_path: Path) -> None:
    done = run("forget", ANNA, "0" * 32, *crosswalk)
    assert done.exit_code == 3
    assert done.stdout == f"{ANNA}: removed from the crosswalk; copies and backups of the file still have it\n"
    assert done.stderr == f"{'0' * 32}: not in the crosswalk\n"
    found, _ = look_up(tmp_path / "crosswalk", KEY, [ANNA, BEN])
    assert set(found) == {BEN}
    assert run("reidentify", ANNA, *crosswalk).exit_code == 3


def test_file_and_key_come_from_the_listener_s_settings(
    crosswalk: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMILIS_LISTENER__CROSSWALK_FILE", str(crosswalk[1]))
    monkeypatch.setenv("SIMILIS_LISTENER__PSEUDONYM_KEY_FILE", str(crosswalk[3]))
    assert run("reidentify", ANNA).exit_code == 0
    monkeypatch.setenv("SIMILIS_LISTENER__CROSSWALK_KEY_FILE", str(crosswalk[1]))
    assert run("reidentify", ANNA).exit_code != 0
