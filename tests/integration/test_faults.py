"""Delivery when processes are killed, brokers restart and workers come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.kafka_broker import LocalKafka
from shared.delivery import EventConsumer, EventPublisher, create_topics
from shared.errors import BrokerUnavailableError
from shared.events import StudyReceived
from shared.settings import KafkaSettings
from shared.topics import Topic
from tests.integration.support import committed, kafka_settings, read_plain, study_received, until

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workers(tmp_path: Path, broker: LocalKafka, topic: Topic) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Workers on the test's topic; all are killed at the end."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for worker in running:
        worker.kill()
        worker.wait()


def start_worker(
    running: list[subprocess.Popen[bytes]],
    broker: LocalKafka,
    topic: Topic,
    folder: Path,
    *,
    hang_on: str = "never",
    work_s: float = 0.01,
) -> subprocess.Popen[bytes]:
    arguments = [broker.bootstrap, topic.name, str(folder), hang_on, str(work_s)]
    with (folder / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "tests.integration.worker", *arguments]
        worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    running.append(worker)
    return worker


async def publish(kafka: KafkaSettings, topic: Topic, count: int) -> None:
    await create_topics(kafka, [topic])
    publisher = EventPublisher(kafka, source="test")
    await publisher.start()
    for number in range(1, count + 1):
        await publisher.publish(topic.name, study_received(number))
    await publisher.stop()


def calls(folder: Path) -> Counter[str]:
    try:
        return Counter(line.split()[0] for line in (folder / "calls").read_text().splitlines())
    except FileNotFoundError:
        return Counter()


async def test_a_worker_killed_between_effect_and_commit_loses_nothing(
    kafka: KafkaSettings, topic: Topic, broker: LocalKafka, tmp_path: Path, workers: list[subprocess.Popen[bytes]]
) -> None:
    await publish(kafka, topic, 12)
    victim = start_worker(workers, broker, topic, tmp_path, hang_on=".6")
    await until((tmp_path / "hanging").exists)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    start_worker(workers, broker, topic, tmp_path)
    await until(lambda: len(calls(tmp_path)) == 12)

    async with asyncio.timeout(60):
        while await committed(kafka, f"workers-{topic.name}") < 12:
            await asyncio.sleep(0.1)
    seen = calls(tmp_path)
    # The one in hand is repeated; one committed just before may be too, nothing else.
    assert seen[str(study_received(6).event_id)] == 2
    assert sum(seen.values()) <= 12 + 2
    assert len(list(tmp_path.glob("effect-*"))) == 12


async def test_a_second_worker_takes_over_part_and_nothing_is_lost_or_done_twice(
    kafka: KafkaSettings, topic: Topic, broker: LocalKafka, tmp_path: Path, workers: list[subprocess.Popen[bytes]]
) -> None:
    count = 48
    await publish(kafka, topic, count)
    # Work takes longer than a rebalance: one that does not wait for the record in hand repeats it.
    start_worker(workers, broker, topic, tmp_path, work_s=0.5)
    await until(lambda: len(calls(tmp_path)) >= 1)
    start_worker(workers, broker, topic, tmp_path, work_s=0.5)
    await until(lambda: len(calls(tmp_path)) == count)
    pids = {line.split()[1] for line in (tmp_path / "calls").read_text().splitlines()}
    assert len(pids) == 2
    assert set(calls(tmp_path).values()) == {1}


async def test_publisher_and_consumer_go_on_after_the_broker_was_killed(
    kafka_jars_folder: Path, tmp_path: Path
) -> None:
    broker = LocalKafka(tmp_path / "kafka", jars=kafka_jars_folder, log_dir=tmp_path / "log", heap_mb=256)
    child = broker.start()
    try:
        kafka = kafka_settings(broker.bootstrap, send_timeout_s=2.0)
        topic = Topic("test.killed.v1", StudyReceived, partitions=2)
        await create_topics(kafka.model_copy(update={"send_timeout_s": 15.0}), [topic])
        seen: list[StudyReceived] = []

        async def handler(event: StudyReceived) -> None:
            seen.append(event)

        consumer = EventConsumer(kafka, group="killed", source="test")
        consumer.subscribe(topic, StudyReceived, handler)
        publisher = EventPublisher(kafka, source="test")
        await consumer.start()
        await publisher.start()
        for number in (1, 2):
            await publisher.publish(topic.name, study_received(number))
        await until(lambda: len(seen) == 2)

        os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.wait, 10.0)
        with pytest.raises(BrokerUnavailableError):
            await publisher.publish(topic.name, study_received(3))

        child = await asyncio.to_thread(broker.start)
        for number in (3, 4):
            async with asyncio.timeout(60):
                while True:
                    try:
                        await publisher.publish(topic.name, study_received(number))
                        break
                    except BrokerUnavailableError:
                        await asyncio.sleep(0.2)
        await until(lambda: {study_received(3), study_received(4)} <= set(seen))
        await consumer.stop()
        await publisher.stop()
        kept = await asyncio.to_thread(read_plain, broker.bootstrap, topic.name, 4)
        assert {record.key for record in kept} >= {study_received(number).key for number in (1, 2, 3, 4)}
    finally:
        await asyncio.to_thread(child.stop, broker.stop_timeout_s)


async def test_a_consumer_started_before_its_broker_joins_when_it_comes(kafka: KafkaSettings, topic: Topic) -> None:
    seen: list[StudyReceived] = []

    async def handler(event: StudyReceived) -> None:
        seen.append(event)

    # The topic stands for the broker: it is not there yet either.
    impatient = kafka.model_copy(update={"send_timeout_s": 1.0})
    consumer = EventConsumer(impatient, group=f"early-{topic.name}", source="test")
    consumer.subscribe(topic, StudyReceived, handler)
    await consumer.start()
    await publish(kafka, topic, 1)
    await until(lambda: len(seen) == 1)
    await consumer.stop()
