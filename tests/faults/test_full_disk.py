"""The journal's disk is full, nearly full, or read-only: objects are refused, and all goes on once there is room."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.power_cut import CutError, call, make_image, mounted
from tests.fuzz import streams
from tests.fuzz.connection import RawAssociation
from tests.services.listener.listener_harness import Running, Sample, make_sample, make_settings, wait_for

OBJECT_BYTES = 256 << 10
DISK_MB = 16
WATERMARK_BYTES = 8 << 20
LATER_S = 60.0
EXPLICIT = 3  # the presentation context of the samples' SOP class and transfer syntax

Start = Callable[..., Running]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        call("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "similis-test", str(folder))
    except (CutError, FileNotFoundError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield folder
    call("umount", str(folder))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a listener whose journal is in the folder it is given, and the rest elsewhere."""
    running: list[Running] = []

    def begin(journal_dir: Path, **options: object) -> Running:
        running.append(Running(make_settings(tmp_path, journal_dir=journal_dir, **options)).start())
        return running[-1]

    yield begin
    for listener in running:
        listener.stop()


# What a listener must have let go before its disk can be unmounted ends first.
@pytest.fixture
def start_on_small_disk(small_disk: Path, start: Start) -> Callable[..., Running]:
    return lambda **options: start(small_disk / "journal", **options)


def large_sample(study: str = "1.2.3") -> Sample:
    sample = make_sample(study=study)
    padding = b"\xfc\xff\xfc\xffOB\0\0" + OBJECT_BYTES.to_bytes(4, "little") + bytes(OBJECT_BYTES)
    return Sample(sample.dataset + padding, sample.study, sample.series, sample.sop)


def store(sender: RawAssociation, sample: Sample) -> int:
    return sender.request(streams.store(EXPLICIT, sample.sop, sample.dataset))


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def fill(folder: Path) -> Path:
    """Somebody else's file takes all the room there is."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return ballast


def receiving(running: Running) -> list[Path]:
    return list((running.settings.listener.journal_dir / "receiving").iterdir())


def test_a_full_disk_refuses_objects_and_takes_them_again_on_the_same_association(
    small_disk: Path, start_on_small_disk: Start
) -> None:
    running = start_on_small_disk(study_quiet_s=LATER_S)
    stored = []
    with RawAssociation(running) as sender:
        for _ in range(2 * DISK_MB * (1 << 20) // OBJECT_BYTES):
            sample = large_sample()
            if store(sender, sample) != 0x0000:
                break
            stored.append(sample)
        else:
            raise AssertionError("the disk was never full")
        assert len(stored) > 20
        for _ in range(3):
            assert store(sender, sample) == 0xA700
        assert not receiving(running)
        # What was acknowledged before is all there.
        assert len(running.journal_files) == len(stored)
        # An operator makes room: nothing of it is the listener's.
        call("mount", "-o", f"remount,size={2 * DISK_MB}m", str(small_disk))
        assert store(sender, sample) == 0x0000
        assert store(sender, large_sample()) == 0x0000
    assert len(running.journal_files) == len(stored) + 2


def test_a_disk_that_somebody_else_fills_delays_publishing_and_loses_nothing(
    small_disk: Path, start_on_small_disk: Start
) -> None:
    running = start_on_small_disk(study_quiet_s=0.5)
    kept, late = large_sample(), large_sample()
    with RawAssociation(running) as sender:
        assert store(sender, kept) == 0x0000
        ballast = fill(small_disk)
        assert store(sender, late) == 0xA700
    # It is archived on another disk and announced, but cannot be noted as published.
    wait_for(lambda: bool(running.publisher.events))
    assert len(running.journal_files) == 1
    ballast.unlink()
    wait_for(lambda: not running.journal_files)
    with RawAssociation(running) as sender:
        assert store(sender, late) == 0x0000
    manifest = running.manifest("1.2.3", revision=2)
    new = {entry.sop_instance_uid: entry.is_new for _, entry in manifest.instances()}
    assert new == {kept.sop: False, late.sop: True}
    assert {event.event_id for _, event in running.publisher.events if event.revision == 1} == {
        running.publisher.events[0][1].event_id
    }


def test_the_watermark_refuses_objects_before_the_disk_is_full(small_disk: Path, start_on_small_disk: Start) -> None:
    running = start_on_small_disk(study_quiet_s=LATER_S, min_free_disk_bytes=WATERMARK_BYTES)
    with RawAssociation(running) as sender:
        stored = 0
        while (status := store(sender, large_sample())) == 0x0000:
            stored += 1
        assert status == 0xA700
        # One object may have begun just above the mark.
        assert WATERMARK_BYTES - 2 * OBJECT_BYTES < free_bytes(small_disk) < WATERMARK_BYTES + OBJECT_BYTES
        assert not receiving(running)
        call("mount", "-o", f"remount,size={2 * DISK_MB}m", str(small_disk))
        assert store(sender, large_sample()) == 0x0000
    assert len(running.journal_files) == stored + 1


@pytest.fixture
def ext4_disk(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    with contextlib.ExitStack() as undo:
        try:
            make_image(tmp_path / "disk.img", "ext4", 64)
            folder = undo.enter_context(mounted(tmp_path / "disk.img", tmp_path / "disk"))
        except CutError as error:
            pytest.skip(f"no file systems can be mounted here: {error}")
        yield folder


def test_a_disk_that_turns_read_only_refuses_objects_until_it_can_be_written_again(
    ext4_disk: Path, tmp_path: Path, start: Start
) -> None:
    # The kernel turns no disk read-only on which a file is open for writing, and the journal's lock is:
    # so that file lies elsewhere.
    journal = tmp_path / "journal"
    journal.mkdir()
    for name in ("receiving", "incoming", "published", "owners"):
        (ext4_disk / name).mkdir()
        (journal / name).symlink_to(ext4_disk / name)
    running = start(journal, study_quiet_s=1.0)
    first, second = make_sample(study="1.2.3"), make_sample(study="1.2.3")
    try:
        with RawAssociation(running) as sender:
            assert store(sender, first) == 0x0000
            call("mount", "-o", "remount,ro", str(ext4_disk))
            for _ in range(3):
                assert store(sender, second) == 0xA700
            # To know a repeat it must take it in first.
            assert store(sender, first) == 0xA700
            call("mount", "-o", "remount,rw", str(ext4_disk))
            assert store(sender, second) == 0x0000
        manifest = running.manifest("1.2.3")
        assert {entry.sop_instance_uid for _, entry in manifest.instances()} == {first.sop, second.sop}
    finally:
        running.stop()
