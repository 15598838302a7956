"""A child that is started again, after a growing pause, whenever it dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from services.local.child import Child
from shared.errors import ConfigurationError, SimilisError

log = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 30.0
STEADY_AFTER_S: Final = 60.0  # a run this long forgives earlier deaths
EXIT_CONFIGURATION: Final = 2  # what a service ends with when its settings are wrong


class KeptRunning:
    """Starts and restarts one child. Every method is called by the supervisor's thread."""

    def __init__(
        self,
        name: str,
        *,
        spawn: Callable[[], Child],
        is_ready: Callable[[Child], bool],
        stop_timeout_s: float,
        restart_pause_s: float,
    ) -> None:
        self.name = name
        self.child: Child | None = None
        self.restarts = 0
        self.ready = False
        self._spawn = spawn
        self._is_ready = is_ready
        self._stop_timeout_s = stop_timeout_s
        self._first_pause_s = restart_pause_s
        self._pause_s = restart_pause_s
        self._started = 0.0
        self._not_before = 0.0
        self._ever_ready = False

    def start(self) -> None:
        """Start it, without waiting for it to be ready."""
        self.ready = False
        self._started = time.monotonic()
        self.child = self._spawn()

    def watch(self) -> bool:
        """Look after it once; whether something changed: it became ready, died, or was started again.

        Raises:
            ConfigurationError: it ended since its settings are wrong, and it never was ready.
        """
        if self.child is None:
            if time.monotonic() < self._not_before:
                return False
            return self._restart()
        code = self.child.exit_code
        if code is None:
            if self.ready or not self._is_ready(self.child):
                return False
            self.ready = self._ever_ready = True
            return True
        return self._died(self.child, code)

    def _restart(self) -> bool:
        self.restarts += 1
        try:
            self.start()
        except SimilisError as error:
            log.warning("%s cannot be started again, next try in %.0f s: %s", self.name, self._pause_s, error)
            self._put_off()
            return False
        return True

    def _died(self, child: Child, code: int) -> bool:
        child.wait(5.0)  # for the last lines of its output
        if code == EXIT_CONFIGURATION and not self._ever_ready:
            raise ConfigurationError(f"{self.name} does not start:\n{child.tail}")
        if time.monotonic() - self._started > STEADY_AFTER_S:
            self._pause_s = self._first_pause_s
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        log.error("%s %s; starts again in %.0f s. Its last lines:\n%s", self.name, how, self._pause_s, child.tail)
        self._put_off()
        return True

    def _put_off(self) -> None:
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self.child, self.ready = None, False

    def terminate(self) -> None:
        """Ask it to end."""
        if self.child is not None:
            self.child.terminate()

    def stop(self) -> None:
        """End it and wait for that."""
        if self.child is not None:
            self.child.stop(self._stop_timeout_s)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self.child is not None:
            self.child.kill()
