"""The power fails while objects are stored: what was acknowledged before is on the disk, bytes and name.

services/listener/mounts.py counts on the fsync of a file that was just moved to make its new name
durable too, on ext4 and xfs. This is the evidence.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from services.listener.journal import Journal
from services.listener.mounts import file_system, syncs_names_with_files
from services.listener.open_studies import OpenStudies
from services.listener.store import StoreObject, StoreRequest, load_object
from shared.pseudonym import Pseudonyms
from tests.faults.power_cut import CuttableDisk, cuttable_disk
from tests.services.listener.listener_harness import Sample, make_sample

PSEUDONYMS = Pseudonyms(b"k" * 32)
MAX_OBJECT_BYTES = 1 << 24
CUTS = int(os.environ.get("SIMILIS_FAULT_CUTS", "10"))
THREADS = 4
OBJECTS_A_STUDY = 3

pytestmark = pytest.mark.slow


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CuttableDisk]:
    with cuttable_disk(tmp_path, request.param) as disk:
        assert file_system(disk.folder) == request.param
        assert syncs_names_with_files(disk.folder)
        yield disk


class Storing:
    """Threads that store objects on a disk until they are told to stop, and what was acknowledged so far."""

    def __init__(self, folder: Path) -> None:
        self.journal = journal_at(folder)
        self.journal.recover()
        self.acknowledged: list[Sample] = []
        self._step = StoreObject(self.journal, OpenStudies(1, 9), PSEUDONYMS, MAX_OBJECT_BYTES)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def __enter__(self) -> Storing:
        for thread in self._threads:
            thread.start()
        return self

    @property
    def goes_on(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self.journal.close()

    def _run(self, number: int) -> None:
        rng, count = random.Random(number), 0
        while not self._stopped.is_set():
            # Studies of one thread and of all, so that new folders are made all the time.
            group = count // OBJECTS_A_STUDY
            study = f"1.2.9.{group}" if group % 2 else f"1.2.{number}.{group}"
            sample = make_sample(study=study, sop=f"1.2.8.{number}.{count}", fill=count)
            sample = Sample(padded(sample.dataset, rng), sample.study, sample.series, sample.sop)
            if store(self._step, sample) != 0x0000:
                return
            self.acknowledged.append(sample)
            count += 1


def padded(data_set: bytes, rng: random.Random) -> bytes:
    """Data Set Trailing Padding of no content: objects of a few bytes up to more than a buffer holds."""
    noise = rng.randbytes(rng.choice((0, 2_000, 40_000, 300_000)) & ~1)
    return data_set + b"\xfc\xff\xfc\xffOB\0\0" + len(noise).to_bytes(4, "little") + noise if noise else data_set


def store(step: StoreObject, sample: Sample) -> int:
    reception = step.begin(StoreRequest(1, "SCU", "SIMILIS", sample.sop_class, sample.sop, sample.transfer_syntax))
    reception.write(sample.dataset)
    return reception.finish().status


def journal_at(folder: Path) -> Journal:
    load = partial(load_object, pseudonyms=PSEUDONYMS, max_object_bytes=MAX_OBJECT_BYTES)
    return Journal(folder / "journal", load=load)


def lost(folder: Path, acknowledged: list[Sample]) -> list[str]:
    """Of the acknowledged objects, the SOP Instance UIDs of those that a journal does not have after the cut."""
    journal = journal_at(folder)
    try:
        studies = journal.recover()
        entries = [entry for study in studies for entry in journal.objects(study)]
        for entry in entries:
            # Whatever it gives back is whole; what was not is set aside by now.
            assert hashlib.sha256(journal.path(entry).read_bytes()).hexdigest() == entry.sha256
        assert not list((folder / "journal" / "receiving").iterdir())
        kept = {entry.header.sop_instance_uid: journal.path(entry).read_bytes() for entry in entries}
    finally:
        journal.close()
    return [sample.sop for sample in acknowledged if not kept.get(sample.sop, b"").endswith(sample.dataset)]


def cut_and_look(disk: CuttableDisk, rng: random.Random) -> tuple[int, list[str]]:
    """Cut while objects are stored; how many had been acknowledged by then, and which of them are lost."""
    root = disk.folder / f"run-{rng.randrange(1 << 30)}"
    root.mkdir()
    with Storing(root) as storing:
        time.sleep(rng.uniform(0.02, 0.2))
        before = len(storing.acknowledged)
        while len(storing.acknowledged) == before:  # right after one more
            assert storing.goes_on, "the disk is full"
            time.sleep(0.0002)
        acknowledged = list(storing.acknowledged)
        copy = disk.cut()
    shutil.rmtree(root)
    with disk.after(copy) as folder:
        return len(acknowledged), lost(folder / root.name, acknowledged)


def test_nothing_that_was_acknowledged_is_lost_in_a_power_cut(disk: CuttableDisk) -> None:
    rng = random.Random(4711)
    acknowledged = 0
    for number in range(CUTS):
        count, gone = cut_and_look(disk, rng)
        assert not gone, f"cut {number}: of {count} acknowledged objects {len(gone)} are lost, such as {gone[:3]}"
        acknowledged += count
    assert acknowledged > 5 * CUTS


def test_the_power_cut_shows_when_nothing_is_synced(disk: CuttableDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)
    count, gone = cut_and_look(disk, random.Random(1))
    assert gone, f"all of {count} objects were there"


def test_the_power_cut_shows_when_files_are_synced_before_they_are_moved(
    disk: CuttableDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes first, then the name, and no fsync after it: the newest names can be lost."""
    sync, move = os.fsync, os.replace

    def synced_first(source: str | Path, target: str | Path) -> None:
        descriptor = os.open(source, os.O_RDONLY)
        sync(descriptor)
        os.close(descriptor)
        move(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "replace", synced_first)
    rng = random.Random(1)
    assert any(cut_and_look(disk, rng)[1] for _ in range(CUTS))
