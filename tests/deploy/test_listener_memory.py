"""The listener's container has the memory that its limits allow."""

from __future__ import annotations

from pathlib import Path

import yaml

from services.listener.settings import ListenerSection

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
PROCESS_BYTES = 1 << 29
UNITS = {"m": 1 << 20, "g": 1 << 30}


def test_the_container_has_room_for_every_object_at_once() -> None:
    container = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["listener"]
    names = ("max_object_bytes", "max_associations", "publish_concurrency")
    given = {name: container["environment"].get(f"SIMILIS_LISTENER__{name.upper()}") for name in names}
    section = ListenerSection(**{name: value for name, value in given.items() if value is not None})
    limit = container["deploy"]["resources"]["limits"]["memory"]
    objects = 2 * section.max_associations + section.publish_concurrency
    assert objects * section.max_object_bytes + PROCESS_BYTES <= int(limit[:-1]) * UNITS[limit[-1]]
