"""A listener as a process that dies at a fault point, which two environment variables name."""

from __future__ import annotations

import os
from pathlib import Path

from services.listener import fault_points
from services.listener.settings import ListenerSettings
from tests.services.listener import listener_child

POINT = "SIMILIS_TEST_FAULT_POINT"
PASSES = "SIMILIS_TEST_FAULT_PASSES"


def run(environment: dict[str, str], settings: ListenerSettings, topic: Path, failures: float) -> None:
    """The process's target. Its parent forked before it knew the `environment`."""
    os.environ.update(environment)
    if POINT in os.environ:
        fault_points.arm(os.environ[POINT], int(os.environ[PASSES]))
    listener_child.run(settings, topic, failures)
