"""Runs the demo on the one-machine profile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from services.demo.ask import Found, find_similar
from services.demo.follow import Followed, follow
from services.demo.report import DemoReport, StudyResult, show
from services.demo.send import send_study
from services.demo.studies import DemoStudy, real_studies
from services.local.app import Profile
from services.local.settings import LocalSettings
from services.training.phantoms.brain_dicom import write_phantoms
from shared import topics
from shared.events import NO_TASK
from shared.logs import configure_logging
from shared.vision.tasks import task_names

SEED: Final = 2025
STUDY_QUIET_S: Final = 2.0


@dataclass(slots=True)
class Bars:
    """The progress bars of what takes longer than two seconds."""

    progress: Progress
    made: TaskID
    pushed: TaskID
    diagnosed: TaskID
    explained: TaskID

    @classmethod
    def on(cls, progress: Progress, phantoms: int) -> Bars:
        """Add the bars to `progress`."""
        return cls(
            progress,
            made=progress.add_task("Phantom studies made", total=phantoms),
            pushed=progress.add_task("Objects pushed by C-STORE", total=None),
            diagnosed=progress.add_task("Studies diagnosed", total=None),
            explained=progress.add_task("Findings explained", total=None),
        )

    def follow(self, followed: Followed, studies: Sequence[DemoStudy]) -> None:
        """Show how far the topics are."""
        uids = {study.study_instance_uid for study in studies}
        findings = [uid for uid in uids & followed.diagnosed.keys() if followed.is_finding(uid)]
        self.progress.update(self.diagnosed, completed=len(uids & followed.diagnosed.keys()), total=len(uids))
        self.progress.update(
            self.explained, completed=sum(followed.is_explained(uid) for uid in findings), total=len(findings) or None
        )


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that the push, and the wait after it, took."""

    push_s: float
    wait_s: float


def run(
    *, data: Path, dicom_port: int, http_port: int, phantoms: int, leave: bool, report: Path | None, timeout_s: float
) -> int:
    """Run the demo. Returns the exit status: 0 only if every pushed study came through whole.

    Raises:
        ConfigurationError: something cannot start; says what to mend.
        SendError: an object was not answered with Success.
    """
    configure_logging("demo", log_format="text", level="WARNING")
    # The services keep their own logs, in DATA/log; this one is for what the demo itself must say.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console()
    started = time.monotonic()
    settings = LocalSettings(
        data=data, dicom_port=dicom_port, http_port=http_port, kafka_port=0, study_quiet_s=STUDY_QUIET_S
    )
    console.print("[bold]Similis demo[/]: research use only; the phantoms are synthetic")
    with ThreadPoolExecutor(1) as background, Profile(settings) as profile:
        with _progress(console) as progress:
            bars = Bars.on(progress, phantoms)
            # The phantoms are made while the services start.
            making = background.submit(_make_phantoms, data / "demo" / "phantoms", phantoms, bars)
            endpoints = profile.start()
            studies = (*making.result(), *real_studies())
            followed, times = asyncio.run(_push_and_follow(endpoints, studies, bars, timeout_s))
        with httpx.Client(base_url=endpoints["http"], timeout=60.0) as client:
            found = {study.study_instance_uid: find_similar(client, study) for study in studies}
        archive = data.resolve() / "archive"
        results = tuple(_result(study, followed, found[study.study_instance_uid], archive) for study in studies)
        demo_report = DemoReport(
            complete=all(result.complete for result in results),
            studies=results,
            dead_letters=tuple(followed.dead),
            page=endpoints["http"],
            endpoints=endpoints,
            topics=tuple(topic.name for topic in _topics()),
            archive=archive,
            push_s=times.push_s,
            wait_s=times.wait_s,
            total_s=time.monotonic() - started,
        )
        show(console, demo_report)
        if report is not None:
            report.write_text(demo_report.model_dump_json(indent=2) + "\n", "utf-8")
        if not demo_report.complete:
            console.print(f"[bold red]Not every study came through whole: see the table, and {data / 'log'}.[/]")
        if not leave:
            _stay(console, profile)
    return 0 if demo_report.complete else 1


def _stay(console: Console, profile: Profile) -> None:
    console.print("It stays up until Ctrl-C.")
    try:
        profile.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")


def _make_phantoms(folder: Path, count: int, bars: Bars) -> tuple[DemoStudy, ...]:
    written = write_phantoms(
        folder, studies=count, seed=SEED, progress=lambda done, _: bars.progress.update(bars.made, completed=done)
    )
    return tuple(DemoStudy(study.study_instance_uid, "phantom", study.label, study.images) for study in written)


async def _push_and_follow(
    endpoints: dict[str, Any], studies: Sequence[DemoStudy], bars: Bars, timeout_s: float
) -> tuple[Followed, Times]:
    followed = Followed()
    names = [name for topic in _topics() for name in (topic.name, topic.dlq)]
    following = asyncio.create_task(follow(endpoints["kafka"], names, followed, lambda: bars.follow(followed, studies)))
    try:
        started = time.monotonic()
        bars.progress.update(bars.pushed, total=sum(len(study.files) for study in studies))
        await asyncio.to_thread(_push, endpoints["dicom"], studies, bars)
        pushed = time.monotonic()
        deadline = pushed + timeout_s
        while time.monotonic() < deadline and not following.done():
            if all(followed.is_done(study.study_instance_uid) for study in studies):
                break
            await asyncio.sleep(0.2)
        if following.done():
            following.result()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return followed, Times(pushed - started, time.monotonic() - pushed)


def _push(dicom: dict[str, Any], studies: Sequence[DemoStudy], bars: Bars) -> None:
    for study in studies:
        send_study(
            study,
            host=dicom["host"],
            port=dicom["port"],
            ae_title=dicom["ae_title"],
            on_sent=lambda: bars.progress.advance(bars.pushed),
        )


def _result(study: DemoStudy, followed: Followed, found: Found, archive: Path) -> StudyResult:
    uid = study.study_instance_uid
    diagnosis = followed.diagnosed.get(uid)
    explained = followed.is_explained(uid) if followed.is_finding(uid) else None
    maps = followed.explained.get(uid, {}).get("maps", ()) if explained else ()
    told = diagnosis or {}
    return StudyResult(
        study_instance_uid=uid,
        source=study.source,
        truth=study.truth,
        objects=len(study.files),
        diagnosed=diagnosis is not None,
        embedded=told.get("frames_embedded", 0) > 0,
        searchable=found.itself,
        explained=explained,
        revision=told.get("revision"),
        task=told.get("task"),
        decision=told.get("decision"),
        reason=told.get("reason"),
        label=told.get("label"),
        confidence=told.get("confidence"),
        modalities=told.get("modalities", ()),
        frames_embedded=told.get("frames_embedded", 0),
        neighbours=found.neighbours,
        maps=tuple(archive / entry["overlay_key"] for entry in maps),
    )


def _topics() -> tuple[topics.Topic, ...]:
    """The topics that the demo follows: the diagnoses, and what explains them."""
    diagnoses = (topics.diagnosis(task) for task in (*task_names(), NO_TASK))
    return (*diagnoses, topics.STUDY_EXPLAINED, topics.STUDY_RECEIVED)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
