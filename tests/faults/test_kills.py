"""kill -9 at each step between an object's first byte and its study's last: nothing acknowledged is ever lost.

SIMILIS_FAULT_KILLS says how often; SIMILIS_FAULT_SEED begins another course of events.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from services.listener.fault_points import POINTS
from shared.archive import LocalArchive
from shared.manifest import StudyManifest
from tests.faults import fault_child
from tests.fuzz import streams
from tests.fuzz.connection import RawAssociation
from tests.fuzz.exchange import FindingError
from tests.services.listener.listener_harness import Sample, make_sample, make_settings

KILLS = int(os.environ.get("SIMILIS_FAULT_KILLS", "24"))
SEED = int(os.environ.get("SIMILIS_FAULT_SEED", "4711"))
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["services.listener.composition", "tests.faults.fault_child"])
ASSOCIATIONS = 3
EXPLICIT = 3  # the presentation context of the samples' SOP class and transfer syntax
QUIET_S = 0.1
PATIENCE_S = 30.0
# Of the events, so many are not acknowledged though half of these are out.
BROKER_FAILURES = 0.1

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 5 * KILLS)]


class Address(NamedTuple):
    """Where a listener is."""

    host: str
    port: int


@dataclass
class Course:
    """What was sent over all lives of the listener, and what was answered with Success."""

    folder: Path
    rng: random.Random
    samples: dict[str, Sample] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def topic(self) -> Path:
        return self.folder / "topic.jsonl"

    @property
    def archive(self) -> LocalArchive:
        return LocalArchive(self.folder / "archive")

    @property
    def unacknowledged(self) -> list[Sample]:
        return [sample for sop, sample in self.samples.items() if sop not in self.acknowledged]

    def new_samples(self, count: int) -> list[Sample]:
        """Objects of a new study, and some that come late to an older one."""
        number = len(self.samples)
        known = sorted({sample.study for sample in self.samples.values()})
        added = []
        for index in range(count):
            late = known and self.rng.random() < 0.3
            study = self.rng.choice(known) if late else f"1.2.7.{number}"
            sample = make_sample(study=study, series=f"{study}.1", sop=f"1.2.6.{number + index}", fill=number + index)
            self.samples[sample.sop] = sample
            added.append(sample)
        return added

    def push(self, host: str, port: int) -> None:
        """Send what is new, what got no Success and some of what did, by several associations at a time."""
        repeated = self.rng.sample(sorted(self.acknowledged), min(2, len(self.acknowledged)))
        samples = [*self.unacknowledged, *(self.samples[sop] for sop in repeated)]
        self.rng.shuffle(samples)
        with ThreadPoolExecutor(ASSOCIATIONS) as pool:
            parts = [samples[start::ASSOCIATIONS] for start in range(ASSOCIATIONS)]
            for acknowledged in pool.map(lambda part: _send(host, port, part), parts):
                self.acknowledged.update(acknowledged)

    def published(self) -> set[str]:
        """The objects of all revisions that were announced."""
        lines = self.topic.read_text().splitlines() if self.topic.exists() else []
        keys = {json.loads(line)["manifest_key"] for line in lines}
        manifests = [StudyManifest.model_validate_json(self.archive.get(key)) for key in keys]
        return {entry.sop_instance_uid for manifest in manifests for _, entry in manifest.instances()}


def _send(host: str, port: int, samples: list[Sample]) -> list[str]:
    """Send until done or cut off; what was answered with Success."""
    done: list[str] = []
    if not samples:
        return done
    with contextlib.suppress(OSError, FindingError), RawAssociation(Address(host, port)) as association:
        for sample in samples:
            status = association.request(streams.store(EXPLICIT, sample.sop, sample.dataset))
            # No life may refuse what another has: the same bytes are always welcome.
            if status != 0x0000:
                raise RuntimeError(f"object {sample.sop} was answered with 0x{status:04X}")
            done.append(sample.sop)
        association.release()
    return done


@contextlib.contextmanager
def listener(course: Course, environment: dict[str, str]) -> Iterator[tuple[BaseProcess, str, int]]:
    """A listener process on the course's folder; dead at the end. Yields its DICOM host and port, "" if it died."""
    endpoints = course.folder / "endpoints.json"
    endpoints.unlink(missing_ok=True)
    settings = make_settings(course.folder, study_quiet_s=QUIET_S, publish_retry_s=0.02)
    settings = settings.model_copy(update={"endpoint_file": endpoints})
    process = FORKSERVER.Process(target=fault_child.run, args=(environment, settings, course.topic, BROKER_FAILURES))
    process.start()
    try:
        _until(lambda: endpoints.exists() or not process.is_alive())
        known = json.loads(endpoints.read_text())["dicom"] if endpoints.exists() else {"host": "", "port": 0}
        yield process, str(known["host"]), int(known["port"])
    finally:
        process.kill()
        process.join()
        process.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


def die_at(course: Course, point: str) -> None:
    """One life of the listener, ended by kill -9 at `point`."""
    # A life stores some ten objects in two or three studies.
    passes = course.rng.randrange(2 if point.startswith("publish.") and point != "publish.purged" else 6)
    environment = {fault_child.POINT: point, fault_child.PASSES: str(passes)}
    course.new_samples(9)
    with listener(course, environment) as (process, host, port):
        rounds = 0
        while process.is_alive():
            if host:
                course.push(host, port)
            process.join(5 * QUIET_S)
            # Studies may have been published together, before the last pass: more of them come.
            rounds += 1
            assert rounds < 20, f"it does not die at {point} after {passes} passes"
            if process.is_alive():
                course.new_samples(2)
        assert process.exitcode == -signal.SIGKILL, process.exitcode
    course.kills[point] += 1


def finish(course: Course) -> None:
    """A last life that nobody ends: everything is sent, published and purged, and SIGTERM ends it."""
    with listener(course, {}) as (process, host, port):
        course.push(host, port)
        assert not course.unacknowledged, "refused by a listener that nobody kills"
        _until(lambda: course.published() == set(course.samples))
        _until(lambda: not files_below(course.folder / "journal" / "incoming"))
        process.terminate()
        process.join(PATIENCE_S)
        assert process.exitcode == 0


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check(course: Course) -> None:
    """What must be true in the end."""
    archive = course.archive
    lost = [
        sop
        for sop in course.acknowledged
        for sample in (course.samples[sop],)
        if not archive.get(f"instances/{sample.study}/{sample.series}/{sop}.dcm").endswith(sample.dataset)
    ]
    assert lost == [], "acknowledged, and not in the archive"
    new = Counter[str]()
    for key in archive.list("manifests"):
        manifest = StudyManifest.model_validate_json(archive.get(key))
        new.update(entry.sop_instance_uid for _, entry in manifest.instances() if entry.is_new)
    assert new == Counter(list(course.samples)), "an object is new in no revision, or in two"
    events = [json.loads(line) for line in course.topic.read_text().splitlines()]
    revisions = {(event["study_instance_uid"], event["revision"]) for event in events}
    assert len({event["event_id"] for event in events}) == len(revisions)
    assert len({json.dumps(event, sort_keys=True) for event in events}) == len(revisions), "a revision has two contents"
    assert len(list(archive.list("manifests"))) == len(revisions)
    for study in {study for study, _ in revisions}:
        order = list(dict.fromkeys(event["revision"] for event in events if event["study_instance_uid"] == study))
        assert order == list(range(1, len(order) + 1)), f"study {study} was announced as {order}"
    journal = course.folder / "journal"
    for name in ("incoming", "receiving", "unreadable", "conflicting"):
        assert not files_below(journal / name), name


def test_kill_9_at_every_fault_point_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    course = Course(tmp_path, random.Random(SEED))
    points = [POINTS[number % len(POINTS)] for number in range(KILLS)]
    course.rng.shuffle(points)
    for point in points:
        die_at(course, point)
    finish(course)
    check(course)
    assert course.kills.total() == KILLS


@pytest.mark.parametrize("damage", ["an object is lost", "an object is cut", "a revision is announced anew"])
def test_the_check_finds_what_a_listener_must_not_do(tmp_path: Path, damage: str) -> None:
    course = Course(tmp_path, random.Random(SEED))
    course.new_samples(6)
    finish(course)
    check(course)
    key = next(iter(course.archive.list("instances")))
    path = tmp_path / "archive" / key
    if damage == "an object is lost":
        path.unlink()
    elif damage == "an object is cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        event = json.loads(course.topic.read_text().splitlines()[0]) | {"instance_count": 99}
        with course.topic.open("a") as topic:
            topic.write(json.dumps(event) + "\n")
    with pytest.raises(Exception, match=r"archive|contents|not in|No such|missing"):
        check(course)
