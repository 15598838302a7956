"""The broker is away when studies come, and is killed in between: each revision is announced once, in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from services.local.kafka_broker import LocalKafka
from services.local.ports import free_port
from shared.archive import LocalArchive
from shared.delivery import create_topics
from shared.errors import BrokerUnavailableError
from shared.topics import STUDY_RECEIVED
from tests.faults.real_listener import RealListener
from tests.integration.support import kafka_settings, read_plain
from tests.services.listener.listener_harness import Sample, Sender, associate, make_sample, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

FIRST, SECOND, THIRD, FOURTH = (f"1.2.3.{number}" for number in range(1, 5))
PATIENCE_S = 60.0


def send(listener: RealListener, *samples: Sample) -> None:
    with Sender(associate(listener.host, listener.port)) as sender:
        for sample in samples:
            assert sender.store(sample).Status == 0x0000


def makes_topic(bootstrap: str) -> bool:
    """A broker takes connections a little before it answers them."""
    try:
        asyncio.run(create_topics(kafka_settings(bootstrap), [STUDY_RECEIVED]))
    except BrokerUnavailableError:
        return False
    return True


def announced(bootstrap: str, count: int) -> list[tuple[str, int, str, str]]:
    """Study, revision, event id and content of each record, in the order of the topic's partitions."""
    found = []
    for record in read_plain(bootstrap, STUDY_RECEIVED.name, count + 20, timeout_s=8.0):
        assert record.value is not None
        event = json.loads(record.value)
        content = json.dumps(event, sort_keys=True)
        found.append((event["study_instance_uid"], event["revision"], event["event_id"], content))
    assert len(found) >= count
    return found


def idle(folder: Path) -> Callable[[], bool]:
    return lambda: not [path for path in (folder / "journal" / "incoming").rglob("*") if path.is_file()]


def test_studies_received_without_a_broker_are_announced_once_it_is_there(
    kafka_jars_folder: Path, tmp_path: Path
) -> None:
    port = free_port()
    broker = LocalKafka(tmp_path / "kafka", jars=kafka_jars_folder, log_dir=tmp_path / "log", heap_mb=256, port=port)
    listener = RealListener(
        tmp_path / "listener",
        bootstrap=f"127.0.0.1:{port}",
        environment={"SIMILIS_LISTENER__PUBLISH_RETRY_MAX_S": "1", "SIMILIS_KAFKA__SEND_TIMEOUT_S": "3"},
    )
    archive = LocalArchive(tmp_path / "listener" / "archive")
    child = None
    try:
        send(listener, make_sample(study=FIRST), make_sample(study=SECOND))
        wait_for(lambda: archive.exists(f"manifests/{FIRST}/1.json"), PATIENCE_S)
        # Its first revision is made, and waits to be announced: this is the second one's.
        send(listener, make_sample(study=FIRST))

        child = broker.start()
        wait_for(lambda: makes_topic(broker.bootstrap), PATIENCE_S)
        wait_for(idle(tmp_path / "listener"), PATIENCE_S)

        os.kill(child.pid, signal.SIGKILL)
        child.wait(10.0)
        send(listener, make_sample(study=THIRD), make_sample(study=SECOND))
        wait_for(lambda: archive.exists(f"manifests/{SECOND}/2.json"), PATIENCE_S)
        child = broker.start()
        send(listener, make_sample(study=FOURTH))
        wait_for(idle(tmp_path / "listener"), PATIENCE_S)

        expected = {(FIRST, 1), (FIRST, 2), (SECOND, 1), (SECOND, 2), (THIRD, 1), (FOURTH, 1)}
        records = announced(broker.bootstrap, len(expected))
        assert {record[:2] for record in records} == expected
        # A record that was not acknowledged may be there twice: the same one, with the same event id.
        assert len({record[2] for record in records}) == len(set(records)) == len(expected)
        for study in (FIRST, SECOND):
            order = list(dict.fromkeys(revision for uid, revision, _, _ in records if uid == study))
            assert order == [1, 2]
        assert listener.stop() == 0
        assert "Traceback" not in listener.log
    finally:
        listener.stop()
        if child is not None:
            child.stop(broker.stop_timeout_s)
