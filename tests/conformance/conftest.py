"""Listeners for senders: one that stands for a module's tests, and others for tests that need settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.listener.certificates import Authority
from tests.services.listener.listener_harness import Running, make_settings


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A listener with its default settings, shared by the tests of a module."""
    running = Running(make_settings(tmp_path_factory.mktemp("listener"))).start()
    yield running
    running.stop()


@pytest.fixture
def start_listener(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts listeners with settings of their own; they are stopped at the test's end."""
    started: list[Running] = []

    def start(**options: object) -> Running:
        folder = tmp_path / f"listener-{len(started)}"
        folder.mkdir()
        started.append(Running(make_settings(folder, **options)).start())
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Issues the certificates of listeners and senders."""
    return Authority()
