"""The listener's process: settings, broker, monitoring port, signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import warnings
from collections.abc import AsyncIterator
from typing import Final

import pydicom.config
from pydantic import ValidationError

from services.listener.composition import listening
from services.listener.settings import ListenerSection, ListenerSettings
from shared.delivery import EventPublisher
from shared.errors import ConfigurationError
from shared.health import Health, monitoring_server, write_endpoints
from shared.logs import configure_logging

log = logging.getLogger(__name__)

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


async def run(settings: ListenerSettings) -> None:
    """Listen until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the settings cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health()
    monitoring = settings.monitoring
    async with (
        _connecting(EventPublisher(settings.kafka, source="listener")) as publisher,
        monitoring_server(health, monitoring.host, monitoring.port) as url,
        listening(settings, publisher) as (host, port, stow_url),
    ):
        health.ready = True
        _warn_if_open(settings.listener)
        ae_title = settings.listener.ae_title
        stow = {} if stow_url is None else {"stow": {"url": stow_url}}
        write_endpoints(
            settings.endpoint_file,
            {"dicom": {"host": host, "port": port, "ae_title": ae_title}, **stow, "metrics": f"{url}/metrics"},
        )
        log.info("receiving DICOM as %s on %s:%d (research use only)", ae_title, host, port)
        if stow_url is not None:
            log.info("receiving DICOM by STOW-RS on %s (research use only)", stow_url)
        await stop.wait()
        log.info("stopping")


def _warn_if_open(section: ListenerSection) -> None:
    """A port that strangers can reach must not look guarded."""
    if section.host in _LOOPBACK or section.tls.mode == "on":
        return
    who = "anybody who reaches it" if not section.access.peers else "any host of the allow-list"
    log.warning("DICOM on %s is not encrypted and open to %s: set TLS, and access lists", section.host, who)


@contextlib.asynccontextmanager
async def _connecting(publisher: EventPublisher) -> AsyncIterator[EventPublisher]:
    """Connect in the background: a broker that is away keeps nobody from sending objects."""
    connecting = asyncio.create_task(publisher.start())
    try:
        # Settings that cannot work show at once.
        await asyncio.wait({connecting}, timeout=0.1)
        if connecting.done():
            connecting.result()
        yield publisher
    finally:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await publisher.stop()


def main() -> None:
    """Run the listener's process with settings from the environment."""
    try:
        settings = ListenerSettings()
        configure_logging("listener", log_format=settings.log_format, level=settings.log_level)
        # These log raw values of whatever a stranger sends, and pynetdicom stack traces.
        for library in ("pydicom", "pynetdicom", "python_multipart"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
            warnings.filterwarnings("ignore", module=library)
        # Neither checks a UID's form here: an association of many contexts would spend most of its time on that.
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        # What is loaded by now stays: no collection needs to look through it again.
        gc.freeze()
        asyncio.run(run(settings))
    except (ConfigurationError, ValidationError) as error:
        print(f"similis listener: {error}", file=sys.stderr)
        sys.exit(2)
