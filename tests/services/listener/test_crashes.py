"""The process dies before any one of the system calls that change the disk: what stands afterwards?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from listener_harness import Sample, journal_name, make_sample, store

from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.ports import MemoryPublisher
from services.listener.publish import PublishStudy
from services.listener.store import StoreObject, load_object
from shared.archive import LocalArchive
from shared.events import Event
from shared.manifest import StudyManifest
from shared.pseudonym import Pseudonyms

PSEUDONYMS = Pseudonyms(b"k" * 32)
CALLS = ("fsync", "replace", "unlink", "link", "rmdir", "mkdir", "symlink")
STUDY = "1.2.3"


class Crash(BaseException):
    """Nothing after it happens: like kill -9, it leaves no time to tidy up."""


class Disk:
    """Lets a number of changing calls through, then crashes at each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for name in CALLS:
            patch.setattr(os, name, self._guarded(getattr(os, name)))

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **options: Any) -> Any:
            self.pass_or_crash()
            return call(*args, **options)

        return guarded

    def pass_or_crash(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            raise Crash
        self.left -= 1


class CrashingPublisher(MemoryPublisher):
    """Also the moment after the broker took the event is one to die in."""

    disk: Disk

    async def publish(self, topic: str, event: Event) -> None:
        self.disk.pass_or_crash()
        await super().publish(topic, event)
        self.disk.pass_or_crash()


class Life:
    """One run of the process on the folder that all of them share."""

    def __init__(self, folder: Path, publisher: MemoryPublisher) -> None:
        def load(file: Path, calling_ae_title: str) -> Any:
            return load_object(file, calling_ae_title, PSEUDONYMS, max_object_bytes=1 << 20)

        self.journal = Journal(folder / "journal", load=load)
        self.recovered = self.journal.recover()
        self.archive = LocalArchive(folder / "archive")
        self.publish = PublishStudy(self.journal, self.archive, publisher, asyncio.Semaphore(1))
        self._store = StoreObject(self.journal, OpenStudies(1, 9), PSEUDONYMS, 1 << 20)

    def store(self, sample: Sample) -> int:
        return store(self._store, sample)

    def die(self) -> None:
        """What the kernel does at a process's end: let go of the journal."""
        self.journal.close()

    def close(self) -> None:
        async def until_done() -> None:
            while await self.publish(STUDY) is not None:
                pass

        asyncio.run(until_done())


@pytest.fixture
def disk() -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch:
        yield Disk(patch)


def crash_points(disk: Disk, start: Callable[[], None], act: Callable[[], None]) -> Iterator[int]:
    """Run `act` on a fresh start again and again, dying one call later each time, until it completes."""
    for point in range(200):
        disk.left = None
        start()
        disk.left = point
        try:
            act()
        except Crash:
            disk.left = None
            yield point
        else:
            disk.left = None
            return
    raise AssertionError("more calls than expected")


def test_a_store_that_dies_anywhere_leaves_a_whole_object_or_none(disk: Disk, tmp_path: Path) -> None:
    sample = make_sample(study=STUDY)
    publisher = MemoryPublisher()
    folder, life = tmp_path, None

    def start() -> None:
        nonlocal folder, life
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        life = Life(folder, publisher)

    points = 0
    for _ in crash_points(disk, start, lambda: life.store(sample)):  # type: ignore[union-attr]
        points += 1
        life.die()  # type: ignore[union-attr]
        again = Life(folder, publisher)
        files = [path for path in (folder / "journal/incoming").rglob("*") if path.is_file()]
        assert [path.name for path in files] in ([], [journal_name(sample, "SCU")])
        assert again.store(sample) == 0x0000
        (path,) = [path for path in (folder / "journal/incoming").rglob("*") if path.is_file()]
        assert path.read_bytes().endswith(sample.dataset)
        again.die()
    assert points >= 4


@pytest.mark.parametrize("late", [False, True], ids=["nothing more comes", "a late object comes after the crash"])
def test_publishing_that_dies_anywhere_ends_in_the_same_revisions(disk: Disk, tmp_path: Path, late: bool) -> None:
    first = [make_sample(study=STUDY, sop=f"1.2.3.{n}", series="1.2.9") for n in range(2)]
    more = make_sample(study=STUDY, sop="1.2.3.7", series="1.2.9")
    folder, life = tmp_path, None
    publisher = CrashingPublisher()

    def start() -> None:
        nonlocal folder, life, publisher
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        publisher = CrashingPublisher()
        publisher.disk = disk
        life = Life(folder, publisher)
        for sample in first:
            assert life.store(sample) == 0x0000

    points = 0
    for point in crash_points(disk, start, lambda: life.close()):  # type: ignore[union-attr]
        points += 1
        life.die()  # type: ignore[union-attr]
        again = Life(folder, publisher)
        sent = [*first, more] if late else first
        for sample in sent:  # the sender repeats all it has
            assert again.store(sample) == 0x0000
        again.close()
        check(folder, publisher, sent, point)
        again.die()
    assert points >= 15


def check(folder: Path, publisher: MemoryPublisher, sent: list[Sample], point: int) -> None:
    archive = LocalArchive(folder / "archive")
    manifests = [
        StudyManifest.model_validate_json(archive.get(f"manifests/{STUDY}/{n + 1}.json"))
        for n in range(len(list(archive.list("manifests"))))
    ]
    new = [entry.sop_instance_uid for m in manifests for _, entry in m.instances() if entry.is_new]
    assert sorted(new) == [sample.sop for sample in sent], point
    held = {entry.sop_instance_uid: archive.get(entry.archive_key) for _, entry in manifests[-1].instances()}
    assert all(held[sample.sop].endswith(sample.dataset) for sample in sent)
    contents = {event.model_dump_json() for _, event in publisher.events}
    assert len(contents) == len({event.event_id for _, event in publisher.events}) == len(manifests), point
    assert [event.revision for _, event in publisher.events] == sorted(event.revision for _, event in publisher.events)
    assert list((folder / "journal/incoming").iterdir()) == []
