"""`similis up`: the whole of Similis on one machine. Research use only.

up ─▶ Profile ─▶ Supervisor ─▶ Kafka, index, listener, embedder, explainer, query
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

from rich.console import Console

from services.local.settings import LocalSettings
from services.local.supervisor import Supervisor
from shared.errors import ConfigurationError
from shared.logs import configure_logging

log = logging.getLogger(__name__)

QUIET_S: Final = 2.0  # a shorter wait shows nothing


class Profile:
    """The one-machine profile, for `similis up`, the demo and tests.

    `with Profile(settings) as profile: profile.start()` stops everything at the end of the block.
    """

    def __init__(self, settings: LocalSettings, *, on_line: Callable[[str, str], None] | None = None) -> None:
        """Nothing is started. `on_line` gets the name of a child and a line it logged, from threads."""
        self._settings = settings
        self._supervisor = Supervisor(settings, on_line=on_line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> dict[str, Any]:
        """Start everything and wait until all is ready; returns the endpoints.

        Raises:
            ConfigurationError: something cannot start; says what to mend.
        """
        self._supervisor.start()
        console = Console(stderr=True)
        began = time.monotonic()
        if not self._supervisor.settled(QUIET_S) and console.is_terminal:
            with console.status(self._supervisor.doing) as status:
                while not self._supervisor.settled(0.2):
                    status.update(f"{self._supervisor.doing} ({time.monotonic() - began:.0f} s)")
        while not self._supervisor.settled(0.5):
            continue
        if not self.endpoints:
            raise ConfigurationError("stopped before everything was ready")
        log.info("ready after %.1f s", time.monotonic() - began)
        return self.endpoints

    @property
    def endpoints(self) -> dict[str, Any]:
        """{"dicom": {"host", "port", "ae_title"}, "http": URL, "kafka": "host:port", "metrics": {service: URL}}."""
        return self._supervisor.endpoints

    @property
    def restarts(self) -> dict[str, int]:
        """How often each child was started again, by name."""
        return self._supervisor.restarts

    def pid(self, name: str) -> int | None:
        """The process id of `kafka`, `index` or a service; None while it is down."""
        return self._supervisor.pid(name)

    def wait(self) -> None:
        """Return when the supervisor ends, which it does by `stop` or by an error. Ctrl-C raises as ever.

        Raises:
            SimilisError: the profile cannot go on.
        """
        while self._supervisor.running(0.5):
            continue
        self._supervisor.settled(0.0)

    def stop(self) -> None:
        """Stop everything in order: the listener first, the broker last. Safe to repeat."""
        self._supervisor.stop()

    def kill9(self) -> None:
        """End everything as `kill -9` of the whole group would; what was acknowledged must survive it."""
        self._supervisor.kill9()


def up(settings: LocalSettings, *, on_ready: Callable[[dict[str, Any]], None] | None = None) -> int:
    """Run the one-machine profile until SIGINT or SIGTERM; returns the exit status.

    Raises:
        ConfigurationError: something cannot start; says what to mend.
    """
    configure_logging("up", log_format=settings.log_format, level=settings.log_level)
    for noisy in ("asyncio", "shared.delivery"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    profile = Profile(settings, on_line=_printer(settings.log_format))
    told = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if not told.is_set():
            told.set()
            log.info("stopping, the listener first and the broker last")
            # Not here: a signal handler must not wait.
            threading.Thread(target=profile.stop, name="stop").start()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with profile:
            try:
                endpoints = profile.start()
            except ConfigurationError:
                if told.is_set():
                    return 0
                raise
            _show(settings, endpoints)
            if on_ready is not None:
                on_ready(endpoints)
            profile.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


def _printer(log_format: str) -> Callable[[str, str], None]:
    """Prints the children's lines as one log; JSON lines name their service themselves."""

    def with_name(name: str, line: str) -> None:
        print(f"{name:<9} | {line}", file=sys.stderr)

    def as_is(_: str, line: str) -> None:
        print(line, file=sys.stderr)

    return as_is if log_format == "json" else with_name


def _show(settings: LocalSettings, endpoints: dict[str, Any]) -> None:
    dicom = endpoints["dicom"]
    log.info("DICOM  %s at %s:%s", dicom["ae_title"], dicom["host"], dicom["port"])
    log.info("page   %s", endpoints["http"])
    log.info("Kafka  %s", endpoints["kafka"])
    log.info("data   %s; addresses in %s", settings.data, settings.data / "run" / "endpoints.json")
    log.info("Similis is up. Research use only. Ctrl-C stops it.")
