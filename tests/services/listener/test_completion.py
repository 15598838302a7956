"""When studies close, what their revisions hold, and what happens while broker or archive is away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from listener_harness import MR, Running, Sender, associate, journal_name, make_sample, wait_for
from prometheus_client import REGISTRY
from pydicom.uid import generate_uid

from services.listener.completion import Completion
from services.listener.journal import Journal
from services.listener.open_studies import OpenStudies
from services.listener.ports import MemoryPublisher


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def studies(clock: Clock) -> OpenStudies:
    return OpenStudies(quiet_s=10, max_age_s=100, clock=clock)


def test_a_study_is_due_after_its_quiet_period(studies: OpenStudies, clock: Clock) -> None:
    studies.stored("1.2", 1)
    studies.association_closed(1)
    clock.now_s = 9.9
    assert studies.due() == []
    studies.stored("1.2", 2)
    studies.association_closed(2)
    clock.now_s = 19.8
    assert studies.due() == []
    clock.now_s = 20.0
    assert studies.due() == ["1.2"]


def test_an_open_association_keeps_its_study_open_up_to_the_greatest_age(studies: OpenStudies, clock: Clock) -> None:
    studies.stored("1.2", 1)
    studies.stored("1.3", 2)
    studies.association_closed(2)
    clock.now_s = 50
    assert studies.due() == ["1.3"]
    clock.now_s = 100
    assert studies.due() == ["1.2", "1.3"]


def test_repeats_keep_a_study_open_and_open_none(studies: OpenStudies, clock: Clock) -> None:
    studies.repeated("1.2", 1)
    clock.now_s = 200
    assert studies.due() == []
    studies.stored("1.3", 1)
    studies.association_closed(1)
    clock.now_s = 208
    studies.repeated("1.3", 2)
    studies.association_closed(2)
    clock.now_s = 211
    assert studies.due() == []
    clock.now_s = 218
    assert studies.due() == ["1.3"]


def test_what_comes_while_a_study_closes_opens_it_again(studies: OpenStudies, clock: Clock) -> None:
    studies.stored("1.2", 1)
    studies.association_closed(1)
    clock.now_s = 10
    studies.closing("1.2")
    assert studies.due() == []
    studies.stored("1.2", 2)
    studies.association_closed(2)
    clock.now_s = 20
    assert studies.due() == ["1.2"]


def test_late_objects_make_a_revision_in_which_only_they_are_new(listener: Running) -> None:
    early = make_sample()
    late = make_sample(study=early.study)
    with listener.send(calling="ONE") as sender:
        sender.store(early)
    listener.manifest(early.study)
    with listener.send(calling="TWO") as sender:
        sender.store(late)
        sender.store(early)
    manifest = listener.manifest(early.study, 2)
    assert {entry.sop_instance_uid: entry.is_new for _, entry in manifest.instances()} == {
        early.sop: False,
        late.sop: True,
    }
    assert manifest.calling_ae_titles == ("ONE", "TWO")
    _, event = listener.publisher.events[-1]
    assert (event.revision, event.instance_count, event.new_instance_count) == (2, 2, 1)
    assert len(listener.publisher.events) == 2


def test_an_open_association_holds_back_its_study(listener: Running) -> None:
    samples = [make_sample(study="1.2.3", series="1.2.3.1") for _ in range(2)]
    with listener.send() as sender:
        sender.store(samples[0])
        with pytest.raises(AssertionError):
            wait_for(lambda: bool(listener.publisher.events), 1.0)
        sender.store(samples[1])
    assert len(list(listener.manifest("1.2.3").instances())) == 2


def test_mixed_patients_are_flagged(listener: Running) -> None:
    study = generate_uid()
    with listener.send() as sender:
        sender.store(make_sample(study=study, patient_id="PHANTOM-1"))
        sender.store(make_sample(study=study, patient_id="PHANTOM-2"))
    manifest = listener.manifest(study)
    assert manifest.mixed_patients
    assert len(manifest.patient_pseudonyms) == 2
    assert listener.publisher.events[0][1].mixed_patients


def test_receiving_goes_on_while_the_broker_is_away(start_listener: Callable[..., Running]) -> None:
    publisher = MemoryPublisher(available=False)
    listener = start_listener(publisher)
    before = retries("BrokerUnavailableError")
    studies = [generate_uid() for _ in range(3)]
    for study in studies:
        with listener.send() as sender:
            assert sender.store(make_sample(study=study)).Status == 0x0000
    wait_for(lambda: retries("BrokerUnavailableError") >= before + 3)
    with listener.send() as sender:
        assert sender.store(make_sample(study=studies[0])).Status == 0x0000
    publisher.available = True
    for study in studies:
        listener.manifest(study)
    listener.manifest(studies[0], 2)
    revisions = [event.revision for _, event in publisher.events if event.study_instance_uid == studies[0]]
    assert revisions == [1, 2]


def test_an_archive_that_is_away_is_tried_again(start_listener: Callable[..., Running], tmp_path: Path) -> None:
    listener = start_listener()
    before = retries("ArchiveUnavailableError")
    # A file where the folder should be.
    obstacle = listener.archive.root / "instances"
    obstacle.write_text("")
    sample = make_sample()
    with listener.send() as sender:
        assert sender.store(sample).Status == 0x0000
    wait_for(lambda: retries("ArchiveUnavailableError") > before)
    obstacle.unlink()
    listener.manifest(sample.study)


def flip_a_pixel(file: IO[bytes]) -> None:
    """The file stays a whole object of its length; only its hash tells."""
    file.seek(-1, os.SEEK_END)
    last = file.read(1)
    file.seek(-1, os.SEEK_END)
    file.write(bytes([last[0] ^ 1]))


@pytest.mark.parametrize("damage", [lambda file: file.truncate(400), flip_a_pixel], ids=["cut short", "a flipped bit"])
def test_a_damaged_journal_file_is_set_aside_and_the_rest_is_published(
    start_listener: Callable[..., Running], damage: Callable[[IO[bytes]], object]
) -> None:
    listener = start_listener(study_quiet_s=60)
    samples = [make_sample(study="1.2.4", series="1.2.4.1") for _ in range(2)]
    with listener.send() as sender:
        for sample in samples:
            sender.store(sample)
    listener.stop()
    folder = listener.settings.listener.journal_dir
    name = journal_name(samples[0], "TESTSCU")
    with (folder / "incoming" / "1.2.4" / name).open("r+b") as file:
        damage(file)
    again = start_listener()
    ((_, entry),) = again.manifest("1.2.4").instances()
    assert entry.sop_instance_uid == samples[1].sop
    assert (folder / "unreadable" / "1.2.4" / name).exists()
    with again.send() as sender:
        assert sender.store(samples[0]).Status == 0x0000
    again.manifest("1.2.4", 2)


def test_many_associations_with_one_study_make_one_revision(start_listener: Callable[..., Running]) -> None:
    listener = start_listener(study_quiet_s=0.5)
    samples = [make_sample(study="1.2.5", series=f"1.2.5.{n % 3}") for n in range(24)]
    senders = [associate(listener.host, listener.port, (MR, samples[0].transfer_syntax)) for _ in range(4)]

    def push(number: int) -> list[int]:
        with Sender(senders[number]) as sender:
            # Every object goes by two associations at once.
            mine = [sample for index, sample in enumerate(samples) if index % 2 == number % 2]
            return [sender.store(sample).Status for sample in mine]

    with ThreadPoolExecutor(4) as pool:
        statuses = [status for part in pool.map(push, range(4)) for status in part]
    assert statuses == [0] * 48
    manifest = listener.manifest("1.2.5")
    assert len(list(manifest.instances())) == 24
    assert [event.revision for _, event in listener.publisher.events] == [1]


def test_a_disk_that_cannot_be_asked_for_its_space_stops_no_publishing(
    start_listener: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Journal) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Journal, "free_bytes", fail)
    listener = start_listener()
    before = watch_failures()
    wait_for(lambda: watch_failures() >= before + 2)
    sample = make_sample()
    with listener.send() as sender:
        assert sender.store(sample).Status == 0x0000
    listener.manifest(sample.study)


def test_the_death_of_the_completion_task_ends_the_listener(
    start_listener: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(_: Completion) -> None:
        await asyncio.sleep(0.2)
        raise RuntimeError("dead")

    monkeypatch.setattr(Completion, "run", die)
    listener = start_listener()
    wait_for(lambda: listener.error is not None)
    assert isinstance(listener.error, RuntimeError)


def watch_failures() -> float:
    return REGISTRY.get_sample_value("similis_listener_watch_failures_total") or 0.0


def retries(reason: str) -> float:
    return REGISTRY.get_sample_value("similis_listener_publish_retries_total", {"reason": reason}) or 0.0
