"""An archive with the results of one explained study, and outboxes that are stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.explainer.delivery import DeliveryOutbox, DeliverySection
from shared.archive.local import LocalArchive
from shared.events import StudyExplained
from tests.services.explainer.delivery.explained_study import Opened, stored_in


@pytest.fixture
def archive(tmp_path: Path) -> LocalArchive:
    root = tmp_path / "archive"
    root.mkdir()
    return LocalArchive(root)


@pytest.fixture
def explained(archive: LocalArchive) -> StudyExplained:
    return stored_in(archive)


@pytest.fixture
def outbox(archive: LocalArchive) -> Iterator[Opened]:
    opened: list[DeliveryOutbox] = []

    def start(settings: DeliverySection) -> DeliveryOutbox:
        one = DeliveryOutbox(settings, archive)
        one.start()
        opened.append(one)
        return one

    yield start
    for one in opened:
        one.stop()
