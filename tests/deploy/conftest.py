from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deploy.composition import COMPOSE_FILE


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE_FILE.read_text()))


@pytest.fixture(scope="session")
def containers(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(compose["services"])
