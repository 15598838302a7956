"""The crosswalk: what it keeps, what it shows to nobody, and what a crash, a full disk or a changed bit leaves."""

from __future__ import annotations

import base64
import fcntl
import logging
import multiprocessing
import os
import random
import select
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import crosswalk_child
import pytest
from crosswalk_child import KEY, pseudonym
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.listener.crosswalk import Crosswalk, locked
from services.listener.crosswalk_records import Identity, RecordCipher
from services.listener.reidentify import forget, look_up
from shared.errors import ConfigurationError

FORKSERVER = multiprocessing.get_context("forkserver")
DupFd = multiprocessing.reduction.DupFd
FORKSERVER.set_forkserver_preload(["services.listener.reidentify"])
STUDY = "1.2.840.99.1"
ANNA, BEN = pseudonym("ANNA-1"), pseudonym("BEN-2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "crosswalk"


@pytest.fixture
def open_crosswalk(path: Path) -> Any:
    opened: list[Crosswalk] = []

    def start(key: bytes = KEY) -> Crosswalk:
        opened.append(Crosswalk(path, key))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def identity(path: Path, who: str) -> tuple[str, str, str] | None:
    found, damaged = look_up(path, KEY, [who])
    assert not damaged
    if (one := found.get(who)) is None:
        return None
    return one.issuer, one.patient_id, one.study_instance_uid


def note_all(crosswalk: Crosswalk, *patient_ids: str) -> None:
    for patient_id in patient_ids:
        crosswalk.note(pseudonym(patient_id), "HOSPITAL", patient_id, STUDY)


# What it keeps


def test_a_noted_patient_is_found(open_crosswalk: Any, path: Path) -> None:
    open_crosswalk().note(ANNA, "HOSPITAL", "ANNA-1", STUDY)
    assert identity(path, ANNA) == ("HOSPITAL", "ANNA-1", "")
    assert identity(path, BEN) is None


def test_a_study_that_stands_in_for_a_patient_is_found(open_crosswalk: Any, path: Path) -> None:
    open_crosswalk().note(ANNA, "HOSPITAL", "", STUDY)
    assert identity(path, ANNA) == ("", "", STUDY)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(issuer=st.text(), patient_id=st.text(min_size=1))
def test_any_text_comes_back_as_it_was(tmp_path: Path, issuer: str, patient_id: str) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    crosswalk = Crosswalk(folder / "crosswalk", KEY)
    crosswalk.note(ANNA, issuer, patient_id, STUDY)
    crosswalk.close()
    assert identity(folder / "crosswalk", ANNA) == (issuer, patient_id, "")


def test_a_patient_is_written_once_also_after_a_restart(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1", "BEN-2", "ANNA-1")
    assert crosswalk.patients == 2
    size_bytes = path.stat().st_size
    again = open_crosswalk()
    note_all(again, "BEN-2", "ANNA-1", "ANNA-1")
    assert path.stat().st_size == size_bytes
    assert again.patients == 2


def test_a_known_patient_costs_no_write_and_few_microseconds(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1")
    before = path.stat()
    started_s = time.process_time()
    for _ in range(2000):
        crosswalk.note(ANNA, "HOSPITAL", "ANNA-1", STUDY)
    assert (time.process_time() - started_s) / 2000 < 50e-6
    assert path.stat() == before


def test_what_is_no_pseudonym_is_not_noted(open_crosswalk: Any) -> None:
    for text in ("", "ab", ANNA.upper(), f"{ANNA[:30]} \n", "x" * 32):
        with pytest.raises(ValueError):
            open_crosswalk().note(text, "HOSPITAL", "ANNA-1", STUDY)


@pytest.mark.parametrize("file_system", ["local", "NFS"])
def test_threads_note_each_patient_once(
    open_crosswalk: Any, path: Path, file_system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file_system == "NFS":  # where a flock is a lock of the whole process
        monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    crosswalk = open_crosswalk()
    names = [f"P-{n}" for n in range(60)]

    def note(seed: int) -> None:
        order = random.Random(seed).sample(names, len(names))
        note_all(crosswalk, *order)

    threads = [threading.Thread(target=note, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crosswalk.patients == len(names)
    assert len(path.read_bytes().splitlines()) == 1 + len(names)
    assert all(identity(path, pseudonym(name)) == ("HOSPITAL", name, "") for name in names)


def test_two_listeners_on_one_file_learn_from_each_other(open_crosswalk: Any, path: Path) -> None:
    one, other = open_crosswalk(), open_crosswalk()
    note_all(one, "ANNA-1")
    note_all(other, "BEN-2", "ANNA-1")
    note_all(one, "BEN-2")
    assert len(path.read_bytes().splitlines()) == 3


# What it shows to nobody


def test_no_identity_is_in_the_file_nor_in_the_log(
    open_crosswalk: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    crosswalk = open_crosswalk()
    crosswalk.note(ANNA, "HOSPITAL", "ANNA-1", STUDY)
    crosswalk.note(BEN, "HOSPITAL", "", STUDY)
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines()[1][:50])
    open_crosswalk()
    lines = path.read_bytes().splitlines()
    boxes = [base64.b64decode(part) for line in lines for part in line.split()[1:] if part != b"1"]
    everything = b"\n".join([*(file.read_bytes() for file in path.parent.iterdir()), *boxes])
    for secret in (b"ANNA", b"HOSPITAL", STUDY.encode(), b"issuer"):
        assert secret not in everything
        assert base64.b64encode(secret)[:-3] not in everything
    assert "ANNA" not in caplog.text
    assert "cut off" in caplog.text


def test_a_line_s_length_does_not_tell_the_length_of_a_short_id(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "A", "A-LONGER-PATIENT-ID")
    _, first, second = path.read_bytes().splitlines()
    assert len(first) == len(second)


def test_the_same_identity_is_never_encrypted_alike(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1")
    line = path.read_bytes().splitlines()[1]
    assert forget(path, KEY, [ANNA]) == {ANNA}
    note_all(crosswalk, "ANNA-1")
    assert path.read_bytes().splitlines()[1] != line


def test_an_identity_has_no_representation() -> None:
    assert "ANNA" not in repr(Identity("HOSPITAL", "ANNA-1", ""))


def test_only_the_owner_may_read_the_files(open_crosswalk: Any, path: Path) -> None:
    old = os.umask(0)
    try:
        note_all(open_crosswalk(), "ANNA-1", "BEN-2")
        forget(path, KEY, [BEN])
    finally:
        os.umask(old)
    assert sorted(file.name for file in path.parent.iterdir()) == ["crosswalk", "crosswalk.lock"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.parent.iterdir())


def test_a_file_that_others_may_read_is_closed_to_them(open_crosswalk: Any, path: Path) -> None:
    open_crosswalk()
    path.chmod(0o644)
    open_crosswalk()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# What a wrong key, a changed bit or another file does


def test_a_wrong_key_is_a_configuration_error(open_crosswalk: Any, path: Path) -> None:
    note_all(open_crosswalk(), "ANNA-1")
    before = path.read_bytes()
    wrong = b"w" * 32
    for act in (
        lambda: open_crosswalk(wrong),
        lambda: look_up(path, wrong, [ANNA]),
        lambda: forget(path, wrong, [ANNA]),
    ):
        with pytest.raises(ConfigurationError, match="was not written with this key"):
            act()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"\n", b"important\n", b"important", b"similis-crosswalk 2", b"x" * 9999])
def test_a_file_that_is_no_crosswalk_is_left_alone(open_crosswalk: Any, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        open_crosswalk()
    assert path.read_bytes() == content


def test_a_folder_in_its_place_is_a_configuration_error(open_crosswalk: Any, path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        open_crosswalk()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        look_up(path, KEY, [ANNA])


def test_looking_up_or_forgetting_begins_no_file(path: Path) -> None:
    path.parent.mkdir()
    for act in (look_up, forget):
        with pytest.raises(ConfigurationError):
            act(path, KEY, [ANNA])
    assert list(path.parent.iterdir()) == []


@pytest.fixture(scope="module")
def sealed() -> tuple[RecordCipher, bytes, bytes]:
    cipher = RecordCipher.for_new_file(KEY)
    lines = [cipher.seal(who, Identity("HOSPITAL", name, "")) for who, name in ((ANNA, "ANNA-1"), (BEN, "BEN-2"))]
    return cipher, lines[0], lines[1]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_every_changed_bit_is_noticed(tmp_path: Path, sealed: Any, data: st.DataObject) -> None:
    cipher, anna, ben = sealed
    header = cipher.header()
    content = bytearray(header + anna + ben)
    second = len(header) + len(anna)
    bits = data.draw(st.sets(st.integers(0, len(content) * 8 - 1), min_size=1, max_size=3))
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    file = tmp_path / "crosswalk"
    file.write_bytes(content)
    places = {bit // 8 for bit in bits}
    if min(places) < len(header):
        with pytest.raises(ConfigurationError):
            look_up(file, KEY, [ANNA, BEN])
        return
    found, damaged = look_up(file, KEY, [ANNA, BEN])
    # A line is lost with any of its bits, or with the line end before it.
    expected = {ANNA: "ANNA-1"} if min(places) >= second else {}
    expected |= {BEN: "BEN-2"} if max(places) < second - 1 else {}
    assert {who: one.patient_id for who, one in found.items()} == expected
    assert damaged or not content.endswith(b"\n")


def test_a_record_does_not_open_beside_another_pseudonym(open_crosswalk: Any, path: Path) -> None:
    note_all(open_crosswalk(), "ANNA-1", "BEN-2")
    header, anna, ben = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + ben[:33] + anna[33:] + anna[:33] + ben[33:])
    assert look_up(path, KEY, [ANNA, BEN]) == ({}, 2)


def test_a_record_of_another_file_does_not_open(tmp_path: Path) -> None:
    lines = []
    for name in ("one", "other"):
        crosswalk = Crosswalk(tmp_path / name, KEY)
        note_all(crosswalk, "ANNA-1")
        crosswalk.close()
        lines.append((tmp_path / name).read_bytes().splitlines(keepends=True))
    (tmp_path / "mixed").write_bytes(lines[0][0] + lines[1][1])
    assert look_up(tmp_path / "mixed", KEY, [ANNA]) == ({}, 1)


def test_a_damaged_record_is_noted_anew(open_crosswalk: Any, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note_all(open_crosswalk(), "ANNA-1", "BEN-2")
    content = bytearray(path.read_bytes())
    content[content.index(ANNA.encode()) + 50] ^= 1
    path.write_bytes(content)
    crosswalk = open_crosswalk()
    assert "1 records are damaged" in caplog.text
    assert crosswalk.patients == 1
    note_all(crosswalk, "ANNA-1", "BEN-2")
    found, damaged = look_up(path, KEY, [ANNA, BEN])
    assert (set(found), damaged) == ({ANNA, BEN}, 1)
    assert forget(path, KEY, [ANNA]) == {ANNA}  # the damaged line, too
    assert look_up(path, KEY, [ANNA, BEN])[1] == 0


# What it forgets


def test_a_forgotten_patient_is_gone_and_the_others_stay(open_crosswalk: Any, path: Path) -> None:
    note_all(open_crosswalk(), "ANNA-1", "BEN-2")
    assert forget(path, KEY, [ANNA, pseudonym("NOBODY")]) == {ANNA}
    assert ANNA.encode() not in path.read_bytes()
    assert identity(path, ANNA) is None
    assert identity(path, BEN) == ("HOSPITAL", "BEN-2", "")
    assert forget(path, KEY, [ANNA]) == set()


def test_a_running_listener_goes_on_after_a_rewrite(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1", "BEN-2")
    for n in range(3):  # so that an inode number could come again
        forget(path, KEY, [ANNA])
        note_all(crosswalk, f"NEW-{n}", "ANNA-1", "BEN-2")
        assert identity(path, ANNA) == ("HOSPITAL", "ANNA-1", "")
        assert len(path.read_bytes().splitlines()) == 4 + n


def test_a_patient_who_comes_back_right_after_a_rewrite_is_noted(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1")
    forget(path, KEY, [ANNA])
    note_all(crosswalk, "ANNA-1")
    assert identity(path, ANNA) == ("HOSPITAL", "ANNA-1", "")


def test_a_listener_whose_file_was_removed_begins_another(
    open_crosswalk: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1")
    path.unlink()
    note_all(crosswalk, "ANNA-1")
    assert identity(path, ANNA) == ("HOSPITAL", "ANNA-1", "")
    assert "the file is gone" in caplog.text


def test_a_file_that_was_cut_short_behind_its_back_is_read_again(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1", "BEN-2")
    os.truncate(path, path.stat().st_size - 10)
    note_all(crosswalk, "NEW-1", "BEN-2")
    assert identity(path, BEN) == ("HOSPITAL", "BEN-2", "")
    assert identity(path, pseudonym("NEW-1")) == ("HOSPITAL", "NEW-1", "")


def test_notes_and_rewrites_at_once_lose_nobody(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    note_all(crosswalk, "ANNA-1")
    names = [f"P-{n}" for n in range(80)]
    thread = threading.Thread(target=note_all, args=(crosswalk, *names))
    thread.start()
    rewrites = 0
    while thread.is_alive() or not rewrites:
        forget(path, KEY, [pseudonym(names[-1]), ANNA])
        rewrites += 1
    thread.join()
    assert all(identity(path, pseudonym(name)) == ("HOSPITAL", name, "") for name in names[:-1])
    assert crosswalk.patients >= len(names) - 1


# What a crash or a full disk leaves


@pytest.mark.parametrize("left", [0, 1, 18, 40, 60])
def test_a_first_line_that_was_not_finished_is_begun_again(open_crosswalk: Any, path: Path, left: int) -> None:
    path.parent.mkdir()
    path.write_bytes(RecordCipher.for_new_file(KEY).header()[:left])
    note_all(open_crosswalk(), "ANNA-1")
    assert identity(path, ANNA) == ("HOSPITAL", "ANNA-1", "")


def test_a_torn_record_is_cut_off_wherever_it_ends(open_crosswalk: Any, path: Path) -> None:
    note_all(open_crosswalk(), "ANNA-1", "BEN-2")
    content = path.read_bytes()
    start = content.index(BEN.encode())
    for end in range(start, len(content), 5):
        path.write_bytes(content[:end])
        crosswalk = open_crosswalk()
        assert path.read_bytes() == content[:start]
        note_all(crosswalk, "BEN-2")
        assert identity(path, ANNA) == ("HOSPITAL", "ANNA-1", "")
        assert identity(path, BEN) == ("HOSPITAL", "BEN-2", "")


def kill_soon(process: Any, pause_s: float) -> None:
    time.sleep(pause_s)
    process.kill()
    process.join()


def test_a_process_killed_while_it_notes_loses_nobody_it_acknowledged(path: Path) -> None:
    rng = random.Random(7)
    acknowledged: set[int] = set()
    torn = 0
    for _ in range(60):
        reader, writer = os.pipe()
        first = max(acknowledged, default=0) + 1
        args = (path, DupFd(writer), first)
        process = FORKSERVER.Process(target=crosswalk_child.note_forever, args=args)
        process.start()
        os.close(writer)
        assert select.select([reader], [], [], 30)[0], "nothing was noted"
        kill_soon(process, rng.uniform(0, 0.02))
        with os.fdopen(reader) as pipe:
            acknowledged |= {int(line) for line in pipe.read().split()}
        torn += not path.read_bytes().endswith(b"\n")
    found, damaged = look_up(path, KEY, [pseudonym(f"SECRET-{n}") for n in acknowledged])
    assert len(acknowledged) >= 60
    assert {one.patient_id for one in found.values()} == {f"SECRET-{n}" for n in acknowledged}
    assert not damaged  # what was torn was cut off before the next record followed
    assert torn >= 20, "too few kills came in the middle of a record"
    crosswalk = Crosswalk(path, KEY)
    assert len(acknowledged) <= crosswalk.patients <= len(acknowledged) + 60
    crosswalk.close()


def test_a_process_killed_while_it_forgets_leaves_the_others(open_crosswalk: Any, path: Path) -> None:
    names = [f"KEEP-{n}" for n in range(20)] + [f"SECRET-{n}" for n in range(9_940, 10_001)]
    note_all(open_crosswalk(), *names)
    rng = random.Random(8)
    for _ in range(10):
        reader, writer = os.pipe()
        process = FORKSERVER.Process(target=crosswalk_child.forget_forever, args=(path, DupFd(writer)))
        process.start()
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read(1)
        kill_soon(process, rng.uniform(0, 0.02))
        assert all(identity(path, pseudonym(name)) for name in names[:20])
    open_crosswalk()
    assert not path.with_name("crosswalk.new").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
from services.listener.crosswalk import Crosswalk
from crosswalk_child import KEY, pseudonym

path = Path(sys.argv[1])
crosswalk = Crosswalk(path, KEY)
crosswalk.note(pseudonym("ANNA-1"), "HOSPITAL", "ANNA-1", "")
before = path.stat().st_size
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (before + 20, most))
for _ in range(2):
    try:
        crosswalk.note(pseudonym("BEN-2"), "HOSPITAL", "BEN-2", "")
    except OSError as error:
        assert path.stat().st_size == before, "a piece of the record is left"
    else:
        raise SystemExit("no error")
crosswalk.note(pseudonym("ANNA-1"), "HOSPITAL", "ANNA-1", "")
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
crosswalk.note(pseudonym("BEN-2"), "HOSPITAL", "BEN-2", "")
"""


def test_a_disk_that_takes_no_more_is_an_os_error_and_recovers(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert identity(path, ANNA)
    assert identity(path, BEN)


def test_a_record_is_on_the_disk_before_note_returns(
    open_crosswalk: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crosswalk = open_crosswalk()
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    note_all(crosswalk, "ANNA-1")
    assert synced == [path.stat().st_size]


def test_records_of_another_process_are_on_the_disk_before_they_count_as_known(
    open_crosswalk: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = open_crosswalk()
    real, synced = os.fsync, []
    with monkeypatch.context() as lazy:
        lazy.setattr(os, "fsync", lambda descriptor: None)  # it dies before it gets there
        note_all(open_crosswalk(), "ANNA-1")

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    for reader in (lambda: note_all(running, "ANNA-1"), lambda: note_all(open_crosswalk(), "ANNA-1")):
        synced.clear()
        reader()
        assert path.stat().st_ino in synced


def test_a_record_that_could_not_be_synced_is_not_known(
    open_crosswalk: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crosswalk = open_crosswalk()
    before = path.read_bytes()

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        with pytest.raises(OSError):
            note_all(crosswalk, "ANNA-1")
    assert path.read_bytes() == before
    note_all(crosswalk, "ANNA-1")
    assert identity(path, ANNA)


def test_the_lock_keeps_other_processes_out(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    with locked(path):
        thread = threading.Thread(target=note_all, args=(crosswalk, "ANNA-1"))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert identity(path, ANNA) is None  # looking up waits for nobody
    thread.join(10)
    assert identity(path, ANNA)


def test_no_descriptor_is_left_open(open_crosswalk: Any, path: Path) -> None:
    crosswalk = open_crosswalk()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(5):
        note_all(crosswalk, f"P-{n}", "ANNA-1")
        forget(path, KEY, [ANNA])
        with pytest.raises(ConfigurationError):
            Crosswalk(path, b"w" * 32)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
