"""The listener's container has the memory that its limits allow."""

from __future__ import annotations

from pathlib import Path

import yaml

from services.listener.settings import ListenerSection

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
PROCESS_BYTES = 1 << 29
# One buffer to receive into, one to gather an object in, and a thread's stack.
ASSOCIATION_BYTES = 2 << 20
UNITS = {"m": 1 << 20, "g": 1 << 30}


def test_the_container_has_room_for_every_association_at_once() -> None:
    container = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["listener"]
    given = container["environment"].get("SIMILIS_LISTENER__MAX_ASSOCIATIONS")
    section = ListenerSection() if given is None else ListenerSection(max_associations=given)
    limit = container["deploy"]["resources"]["limits"]["memory"]
    needed = section.max_associations * ASSOCIATION_BYTES + PROCESS_BYTES
    assert needed <= int(limit[:-1]) * UNITS[limit[-1]]
