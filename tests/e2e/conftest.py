"""The whole one-machine profile, started once for the session."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from services.local.app import Profile
from services.local.settings import LocalSettings
from services.training.phantoms.brain_dicom import PhantomStudy, write_phantoms
from tests.e2e.support import QUIET_S, Subscriber, System, require_kafka, subscribed


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    require_kafka()
    data = tmp_path_factory.mktemp("similis")
    settings = LocalSettings(data=data, dicom_port=0, http_port=0, kafka_port=0, study_quiet_s=QUIET_S)
    with Profile(settings) as profile:
        endpoints = profile.start()
        with httpx.Client(base_url=endpoints["http"], timeout=60.0) as http:
            yield System(data, endpoints, http)
        assert not any(profile.restarts.values()), f"a service died and was restarted: {profile.restarts}"


@pytest.fixture
def subscriber(system: System) -> Iterator[Subscriber]:
    with subscribed(system.endpoints["kafka"]) as subscriber:
        yield subscriber


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[PhantomStudy]:
    """Two studies of each class; some are called findings, some are abstained from."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), studies=8, seed=2025)
