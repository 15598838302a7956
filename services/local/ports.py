"""Ports on the loopback address."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from shared.errors import ConfigurationError

HOST: Final = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could bind `port` now."""
    with socket.socket() as probe:
        # As servers do: a port whose old connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def choose_port(what: str, *, asked: int, kept: int = 0) -> int:
    """`asked` if it is not 0, else the `kept` one if it is free, else any free one.

    Raises:
        ConfigurationError: the asked port is taken; names `what` wanted it.
    """
    if asked:
        if not is_free(asked):
            raise ConfigurationError(f"port {asked} for {what} is taken by another program")
        return asked
    return kept if kept and is_free(kept) else free_port()


def answers(port: int, timeout_s: float = 1.0) -> bool:
    """Whether something takes connections on `port`."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=timeout_s):
        return True
    return False
