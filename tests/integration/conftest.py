"""A real Apache Kafka for the session, and what the delivery tests share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.local import kafka_jars
from services.local.kafka_broker import LocalKafka
from shared.errors import ConfigurationError
from shared.events import StudyReceived
from shared.settings import KafkaSettings
from shared.topics import Topic
from tests.integration.support import PlainRecord, kafka_settings, read_plain

CACHE = Path(os.environ.get("SIMILIS_VISION__CACHE_DIR", "~/.cache/similis"))


@pytest.fixture(scope="session")
def kafka_jars_folder() -> Path:
    try:
        kafka_jars.java()
        return kafka_jars.obtain(CACHE)
    except ConfigurationError as error:
        if os.environ.get("SIMILIS_REQUIRE_KAFKA") == "1":
            pytest.fail(f"SIMILIS_REQUIRE_KAFKA=1, but: {error}")
        pytest.skip(f"no real Kafka: {error}")


@pytest.fixture(scope="session")
def broker(kafka_jars_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    folder = tmp_path_factory.mktemp("kafka")
    broker = LocalKafka(folder / "kafka", jars=kafka_jars_folder, log_dir=folder / "log", heap_mb=256)
    child = broker.start()
    yield broker
    child.stop(broker.stop_timeout_s)


@pytest.fixture
def kafka(broker: LocalKafka) -> KafkaSettings:
    return kafka_settings(broker.bootstrap)


@pytest.fixture
def topic() -> Topic:
    """A topic of its own for each test, on the shared broker."""
    return Topic(f"test.{uuid.uuid4().hex[:12]}.v1", StudyReceived, partitions=2)


@pytest.fixture
def plain(broker: LocalKafka) -> Callable[..., list[PlainRecord]]:
    def read(topic: str, count: int, timeout_s: float = 60.0) -> list[PlainRecord]:
        return read_plain(broker.bootstrap, topic, count, timeout_s)

    return read
