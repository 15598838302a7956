"""Listeners that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from listener_harness import Running, make_settings

from services.listener.ports import MemoryPublisher


@pytest.fixture
def start_listener(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts listeners on this test's folder; they are stopped at its end."""
    started: list[Running] = []

    def start(publisher: MemoryPublisher | None = None, **options: object) -> Running:
        running = Running(make_settings(tmp_path, **options), publisher or MemoryPublisher())
        started.append(running)
        return running.start()

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def listener(start_listener: Callable[..., Running]) -> Running:
    return start_listener()
