"""What a hostile review broke once: each of these failed before its mend."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from listener_harness import (
    MR,
    Running,
    Sample,
    associate,
    association_request,
    encode,
    item,
    make_dataset,
    make_sample,
    store,
    wait_for,
)
from pydicom.uid import ExplicitVRLittleEndian

from services.listener import elements
from services.listener.answers import RefusedObjectError
from services.listener.elements import BytesSource
from services.listener.journal import Journal
from services.listener.negotiation import MalformedRequestError, parse_request
from services.listener.open_studies import OpenStudies
from services.listener.store import StoreObject, load_object
from services.listener.threads import in_thread
from shared.pseudonym import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)
LOAD = partial(load_object, pseudonyms=PSEUDONYMS, max_object_bytes=1 << 20)
STUDY = "1.2.3"


def step(journal: Journal, **more: Any) -> StoreObject:
    return StoreObject(journal, OpenStudies(1, 9), PSEUDONYMS, 1 << 20, **more)


@contextlib.contextmanager
def opened(folder: Path, **more: Any) -> Iterator[Journal]:
    journal = Journal(folder, load=LOAD, **more)
    journal.recover()
    try:
        yield journal
    finally:
        journal.close()


def test_a_repeat_that_fails_does_not_take_what_was_set_aside_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = (make_sample(study=STUDY, sop="1.2.3.1", series="1.2.9", fill=n) for n in range(2))
    with opened(tmp_path, conflicts="keep-aside") as journal:
        assert [store(step(journal), sample) for sample in (first, other)] == [0, 0]
        with monkeypatch.context() as patch:

            def fails(descriptor: int) -> None:
                raise OSError(5, "Input/output error")

            patch.setattr(os, "fsync", fails)
            assert store(step(journal), other) == 0xA700
        (aside,) = (tmp_path / "conflicting" / STUDY).iterdir()
        assert aside.read_bytes().endswith(other.dataset)


def test_an_object_that_comes_while_a_damaged_one_is_set_aside_stays_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = make_sample(study=STUDY, sop="1.2.3.1", series="1.2.9")
    with opened(tmp_path) as journal:
        assert store(step(journal), sample) == 0
    (file,) = (tmp_path / "incoming" / STUDY).iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with opened(tmp_path) as journal:
        set_aside = journal._set_aside

        def overtaken(damaged: Path, target: Path) -> None:
            set_aside(damaged, target)
            monkeypatch.undo()
            assert store(step(journal), sample) == 0

        monkeypatch.setattr(journal, "_set_aside", overtaken)
        journal.objects(STUDY)
        assert journal.study_of(sample.sop) == STUDY
        assert len(journal.objects(STUDY)) == 1


def test_of_two_objects_with_one_uid_after_a_crash_the_whole_one_counts(tmp_path: Path) -> None:
    sample, other = (make_sample(study=STUDY, sop="1.2.3.1", series="1.2.9", fill=n) for n in range(2))
    with opened(tmp_path) as journal:
        assert store(step(journal), other) == 0
    folder = tmp_path / "incoming" / STUDY
    (torn,) = folder.iterdir()
    kept_elsewhere = tmp_path / torn.name
    torn.rename(kept_elsewhere)
    with opened(tmp_path) as journal:
        assert store(step(journal), sample) == 0
    kept_elsewhere.write_bytes(kept_elsewhere.read_bytes()[:-5])
    kept_elsewhere.rename(folder / torn.name)
    with opened(tmp_path) as journal:
        (entry,) = journal.objects(STUDY)
        assert journal.path(entry).read_bytes().endswith(sample.dataset)
    assert (tmp_path / "unreadable" / STUDY / torn.name).exists()


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [make_sample(study=STUDY, sop=f"1.2.3.{n}", series="1.2.9") for n in range(2)]
    with opened(tmp_path) as journal:
        assert [store(step(journal), sample) for sample in samples] == [0, 0]
    real = os.fsync

    def fails(descriptor: int) -> None:
        if samples[0].sop + "." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    with opened(tmp_path) as journal:
        assert [entry.header.sop_instance_uid for entry in journal.objects(STUDY)] == [samples[1].sop]


def test_a_refused_object_leaves_nobody_in_the_crosswalk(tmp_path: Path) -> None:
    noted: list[str] = []
    with opened(tmp_path) as journal:
        note = step(journal, note_identity=lambda header, identity: noted.append(identity.patient_id))
        sample = make_sample(study=STUDY, sop="1.2.3.1", patient_id="A")
        assert store(note, sample) == 0
        assert store(note, make_sample(study=STUDY, sop="1.2.3.1", patient_id="B", fill=1)) == 0x0111
        assert store(note, sample) == 0
    assert noted == ["A"]


def test_objects_are_refused_before_the_disk_runs_out_of_names(tmp_path: Path) -> None:
    with opened(tmp_path, min_free_files=2**62) as journal:
        assert store(step(journal), make_sample()) == 0xA700


def test_a_data_set_of_endless_elements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 1000)
    monkeypatch.setattr(elements._Walk.__init__, "__kwdefaults__", {"max_elements": 1000})
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(80_000)) + packer.flush()
    with pytest.raises(RefusedObjectError, match="elements"):
        elements.walk(BytesSource(bomb), "1.2.840.10008.1.2.1.99", (), max_bytes=1 << 20)


def test_sequences_of_unknown_vr_do_not_read_the_data_set_again_and_again() -> None:
    class Counting(BytesSource):
        reads = 0

        def read(self, position: int, size_bytes: int) -> memoryview:
            self.reads += 1
            return super().read(position, size_bytes)

    sequence = struct.pack("<HH2s2xI", 0x0009, 0x1001, b"UN", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    source = Counting(sequence * 10_000)
    elements.walk(source, ExplicitVRLittleEndian, (), max_bytes=1 << 20)
    assert source.reads < 20


def test_a_request_with_an_identifier_twice_is_malformed() -> None:
    context = item(0x20, b"\x01\0\0\0" + item(0x30, MR.encode()) + item(0x40, ExplicitVRLittleEndian.encode()))
    assert parse_request(association_request(context)[6:])
    with pytest.raises(MalformedRequestError):
        parse_request(association_request(context, context)[6:])


@pytest.mark.parametrize(
    "pdus",
    [
        struct.pack(">BxI", 4, 0),
        struct.pack(">BxIIBB", 4, 6, 2, 1, 1) * 1500,
    ],
    ids=["no item", "empty fragments"],
)
def test_messages_without_content_are_cut(start_listener: Callable[..., Running], pdus: bytes) -> None:
    listener = start_listener(network_timeout_s=30)
    assoc = associate(listener.host, listener.port)
    connection = assoc.dul.socket.socket
    with contextlib.suppress(OSError):
        connection.sendall(pdus)
    wait_for(lambda: assoc.acse.is_aborted() or not assoc.is_established, 5)
    assoc.kill()
    connection.close()


def test_stopping_lets_the_object_in_hand_be_answered(
    start_listener: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = start_listener(study_quiet_s=60)
    begun = threading.Event()
    real = os.fsync

    def slow(descriptor: int) -> None:
        if "incoming" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            begun.set()
            time.sleep(0.5)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    stopping = threading.Thread(target=lambda: (begun.wait(10), listener.stop()))
    stopping.start()
    with listener.send() as sender:
        assert sender.store(make_sample()).Status == 0x0000
    stopping.join()


def test_a_thread_is_waited_for_however_often_its_caller_is_cancelled() -> None:
    ended = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(in_thread(lambda: (time.sleep(0.3), ended.set())))
        for _ in range(3):
            await asyncio.sleep(0.05)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_a_data_set_that_nobody_wants_is_not_kept(start_listener: Callable[..., Running]) -> None:
    listener = start_listener()
    assoc = associate(listener.host, listener.port)
    sample = Sample(encode(make_dataset(study="1.2", series="1.3", sop="1.4")), "1.2", "1.3", "1.4")
    assert assoc.is_established
    # A command that this listener does not serve, with a data set of 17 MB.
    command = struct.pack("<HHIH", 0, 0x0100, 2, 0x0020) + struct.pack("<HHIH", 0, 0x0110, 2, 1)
    command += struct.pack("<HHIH", 0, 0x0800, 2, 1)
    context = assoc.accepted_contexts[0].context_id
    connection = assoc.dul.socket.socket
    connection.sendall(struct.pack(">BxIIBB", 4, len(command) + 6, len(command) + 2, context, 3) + command)
    with contextlib.suppress(OSError):
        for _ in range(170):
            connection.sendall(struct.pack(">BxIIBB", 4, 100_006, 100_002, context, 0) + bytes(100_000))
    wait_for(lambda: assoc.acse.is_aborted() or not assoc.is_established, 10)
    assoc.kill()
    connection.close()
    with listener.send() as sender:
        assert sender.store(sample).Status == 0x0000
