"""A listener whose topic is a file, as a process to be killed."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from pathlib import Path

from services.listener.composition import listening
from services.listener.settings import ListenerSettings
from shared.errors import BrokerUnavailableError
from shared.events import Event
from shared.health import write_endpoints


class FilePublisher:
    """Appends events to a file. Now and then it fails, half of the times after the event is out."""

    def __init__(self, path: Path, failures: float) -> None:
        self._path = path
        self._failures = failures

    async def publish(self, topic: str, event: Event) -> None:
        fails = random.random() < self._failures
        if fails and random.random() < 0.5:
            raise BrokerUnavailableError("not sent")
        with self._path.open("a") as file:
            file.write(event.model_dump_json() + "\n")
        if fails:
            raise BrokerUnavailableError("sent, not acknowledged")


async def _run(settings: ListenerSettings, publisher: FilePublisher) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with listening(settings, publisher) as (host, port, _):
        write_endpoints(settings.endpoint_file, {"dicom": {"host": host, "port": port, "ae_title": "SIMILIS"}})
        await stop.wait()


def run(settings: ListenerSettings, topic: Path, failures: float) -> None:
    """The process's target."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    asyncio.run(_run(settings, FilePublisher(topic, failures)))
