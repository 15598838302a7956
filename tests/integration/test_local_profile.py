"""The one-machine profile's supervisor, with a real Kafka and stubs in the services' places."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.local.child import birth
from services.local.settings import LocalSettings
from services.local.supervisor import SERVICES, Supervisor
from shared.delivery import EventPublisher
from shared.errors import ConfigurationError
from shared.settings import KafkaSettings
from shared.topics import STUDY_RECEIVED
from tests.integration.support import read_plain, study_received

pytestmark = pytest.mark.kafka

STUB = (sys.executable, str(Path(__file__).with_name("stub_service.py")))
READY_S = 120.0


@pytest.fixture
def settings(tmp_path: Path, kafka_jars_folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    monkeypatch.setenv("STUB_ENDS", str(tmp_path / "ends"))
    monkeypatch.delenv("SIMILIS_KAFKA__BOOTSTRAP", raising=False)
    monkeypatch.setenv("SIMILIS_LOCAL__KAFKA_HEAP_MB", "256")
    monkeypatch.setenv("SIMILIS_LOCAL__RESTART_PAUSE_S", "0.1")
    return LocalSettings(data=tmp_path / "data", dicom_port=0, http_port=0)


@pytest.fixture
def supervise(settings: LocalSettings) -> Iterator[Callable[[], Supervisor]]:
    started: list[Supervisor] = []

    def start() -> Supervisor:
        supervisor = Supervisor(settings, command=STUB)
        started.append(supervisor)
        supervisor.start()
        return supervisor

    yield start
    for supervisor in started:
        supervisor.stop()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def pids(supervisor: Supervisor) -> list[int]:
    found = [supervisor.pid(name) for name in ("kafka", "index", *SERVICES)]
    return [pid for pid in found if pid is not None]


def publish(bootstrap: str, number: int) -> None:
    async def once() -> None:
        publisher = EventPublisher(KafkaSettings(bootstrap=bootstrap), source="test")
        await publisher.start()
        await publisher.publish(STUDY_RECEIVED.name, study_received(number))
        await publisher.stop()

    asyncio.run(once())


def test_the_profile_starts_restarts_survives_kill_9_and_stops_in_order(
    settings: LocalSettings, supervise: Callable[[], Supervisor], tmp_path: Path
) -> None:
    file = settings.data / "run" / "endpoints.json"
    first = supervise()
    assert first.settled(READY_S)
    endpoints = json.loads(file.read_text())
    assert endpoints == first.endpoints
    assert endpoints["dicom"]["ae_title"] == "STUB"
    assert set(endpoints["metrics"]) == {"index", *SERVICES}
    publish(endpoints["kafka"], 1)

    # Another one is refused while this one runs.
    second = supervise()
    with pytest.raises(ConfigurationError, match=f"another `similis up` .process {os.getpid()}."):
        second.settled(READY_S)

    # A service that dies comes back on the same DICOM port.
    killed = first.pid("listener")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: json.loads(file.read_text())["metrics"]["listener"] != endpoints["metrics"]["listener"])
    again = json.loads(file.read_text())
    assert again["dicom"] == endpoints["dicom"]
    assert first.restarts["listener"] == 1
    assert first.pid("listener") != killed

    # kill -9 of everything, and a start on the same folder.
    gone = pids(first)
    first.kill9()
    assert all(birth(pid) is None for pid in gone)
    assert file.exists()
    third = supervise()
    assert third.settled(READY_S)
    assert third.endpoints["kafka"] == endpoints["kafka"]
    [record] = read_plain(endpoints["kafka"], STUDY_RECEIVED.name, 1)
    assert record.key == study_received(1).key

    gone = pids(third)
    third.stop()
    assert all(birth(pid) is None for pid in gone)
    assert not file.exists()
    ends = (tmp_path / "ends").read_text().split()
    assert ends[0] == "listener"
    assert set(ends[1:4]) == {"embedder", "explainer", "query"}
    assert ends[4:] == ["index"]


def test_a_service_that_refuses_its_settings_ends_the_start_with_its_own_words(
    supervise: Callable[[], Supervisor], monkeypatch: pytest.MonkeyPatch, settings: LocalSettings
) -> None:
    monkeypatch.setenv("STUB_REFUSES", "embedder")
    supervisor = supervise()
    with pytest.raises(ConfigurationError, match="embedder does not start:\nSTUB_THING is not set"):
        supervisor.settled(READY_S)
    supervisor.stop()
    assert pids(supervisor) == [] or all(birth(pid) is None for pid in pids(supervisor))
    assert not (settings.data / "run" / "endpoints.json").exists()
