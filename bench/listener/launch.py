"""A receiver as a process: started on an empty folder, answering, ended with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.listener.errors import BenchmarkError
from bench.listener.measure import ProcessTree
from bench.listener.requestor import Address, association
from bench.listener.senders import environment

LOOPBACK: Final = "127.0.0.1"
_START_S: Final = 60.0
_STOP_S: Final = 1.0
_LOG_TAIL: Final = 2_000


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a receiver and what to ask it."""

    command: list[str]
    address: Callable[[], Address | None]
    """None: not known yet."""
    stored: Callable[[], int]
    """Objects that it keeps now."""
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """A receiver that answers."""

    address: Address
    tree: ProcessTree
    stored: Callable[[], int]


@contextlib.contextmanager
def running(title: str, launch: Launch, folder: Path, *, no_delay: bool) -> Iterator[Running]:
    """Start a receiver in `folder` and wait until it answers; `title` is what errors call it.

    Raises:
        BenchmarkError: it did not come up.
    """
    log = folder / "receiver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.command,
            env=environment(no_delay=no_delay) | launch.env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    tree = ProcessTree(process.pid)
    try:
        deadline_s = time.monotonic() + _START_S
        while (address := _answering(launch)) is None:
            if process.poll() is not None or time.monotonic() > deadline_s:
                said = log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
                raise BenchmarkError(f"{title} did not come up: {said}")
            time.sleep(0.02)
        yield Running(address, tree, launch.stored)
    finally:
        _end(process, tree)


def _answering(launch: Launch) -> Address | None:
    address = launch.address()
    if address is None:
        return None
    try:
        with association(address, timeout_s=5.0):
            return address
    except (OSError, BenchmarkError):
        return None


def _end(process: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    """SIGTERM to the leader, then SIGKILL to whatever of the tree is left. Its folder is thrown away anyway."""
    members = tree.pids()
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    for pid in {*members, *tree.pids()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port of the loopback address that nothing uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
