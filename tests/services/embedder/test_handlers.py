"""From event to step and back."""

from __future__ import annotations

import asyncio
import time

import pytest
from embedder_studies import archive_study, made_up_task, slices

from services.embedder.embed_study import EmbedStudy
from services.embedder.handlers import OnStudyReceived, Progress
from services.embedder.ports import StoppingError
from shared.errors import BrokerUnavailableError, TransientError
from shared.events import Event
from shared.health import Health
from shared.pixels import PixelLimits


class Published:
    """A working publisher that keeps what it is given; refuses the first `failures`."""

    def __init__(self, failures: int = 0) -> None:
        self.events: list[tuple[str, Event]] = []
        self.failures = failures

    async def publish(self, topic: str, event: Event) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError("away")
        self.events.append((topic, event))


async def test_each_diagnosis_goes_to_its_tasks_topic(archive, encoder, index):
    tasks = tuple(made_up_task(encoder.id, encoder.dim, name=name) for name in ("a-task", "b-task"))
    publisher = Published()
    step = EmbedStudy(archive, encoder, tasks, index, PixelLimits())
    await OnStudyReceived(step, publisher)(archive_study(archive, slices(2)))
    assert [topic for topic, _ in publisher.events] == ["similis.diagnosis.a-task.v1", "similis.diagnosis.b-task.v1"]


async def test_a_study_without_a_task_goes_to_the_topic_none(embed, archive):
    series = slices(1)
    series.modality = "CR"
    publisher = Published()
    await OnStudyReceived(embed, publisher)(archive_study(archive, series))
    assert [topic for topic, _ in publisher.events] == ["similis.diagnosis.none.v1"]


async def test_a_failed_publication_is_made_up_for_by_redelivery_without_computing(embed, archive, encoder):
    received = archive_study(archive, slices(2))
    publisher = Published(failures=1)
    handler = OnStudyReceived(embed, publisher)
    with pytest.raises(BrokerUnavailableError):
        await handler(received)
    passes = list(encoder.encoded)
    await handler(received)
    assert encoder.encoded == passes
    assert len(publisher.events) == 1


async def test_redelivery_publishes_the_same_event(embed, archive):
    received = archive_study(archive, slices(2))
    publisher = Published()
    handler = OnStudyReceived(embed, publisher)
    await handler(received)
    await handler(received)
    assert publisher.events[0] == publisher.events[1]


async def test_the_event_loop_runs_on_while_a_study_is_embedded(archive):
    ticks = 0

    def slow(_: object) -> tuple[()]:
        time.sleep(0.3)
        return ()

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await OnStudyReceived(slow, Published())(archive_study(archive, slices(1)))
    ticking.cancel()
    assert ticks >= 5


def test_progress_keeps_a_busy_service_alive():
    now = 0.0
    health = Health(stuck_after_s=10.0, clock=lambda: now)
    progress = Progress(health)
    progress()
    now = 9.0
    progress()
    now = 18.0
    assert health.is_alive()
    now = 20.0
    assert not health.is_alive()


def test_after_a_stop_progress_ends_the_work_for_another_worker():
    progress = Progress(Health())
    progress()
    progress.stop()
    with pytest.raises(StoppingError) as stopped:
        progress()
    assert isinstance(stopped.value, TransientError)


def test_a_failure_for_good_ends_the_work_and_the_service_is_not_alive():
    ended: list[bool] = []
    progress = Progress(Health(), lambda: ended.append(True))
    progress.fail()
    assert not progress.health.is_alive()
    assert ended == [True]
    with pytest.raises(StoppingError):
        progress.check()
