"""The senders: DCMTK's storescu, one process an association."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.listener.errors import BenchmarkError, NotInstalledError
from bench.listener.objects import Study
from bench.listener.requestor import Address

# pynetdicom installs programs of the same names into the environment's own folder, so PATH is not asked.
SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/usr/sbin:/opt/homebrew/bin"
CALLING_AE_TITLE: Final = "BENCH"
_LOG_TAIL: Final = 2_000


@dataclass(frozen=True, slots=True)
class Sent:
    """What sending took: from the first sender's start to the last one's end."""

    wall_s: float
    cpu_s: float


def system_tool(name: str) -> str:
    """The path of an installed program.

    Raises:
        NotInstalledError: there is none.
    """
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise NotInstalledError(f"{name} is not installed")
    return found


def environment(*, no_delay: bool) -> dict[str, str]:
    """The environment of senders and receivers. DCMTK, and what is built on it, takes TCP_NODELAY from it."""
    dropped = ("SIMILIS_", "TCP_NODELAY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | ({"TCP_NODELAY": "1"} if no_delay else {})


def send(shares: Sequence[Sequence[Study]], address: Address, *, no_delay: bool, timeout_s: float) -> Sent:
    """Send each share over an association of its own, all at once.

    Raises:
        BenchmarkError: a sender did not get Success for everything, or `timeout_s` was not enough.
    """
    command = [system_tool("storescu"), "-aet", CALLING_AE_TITLE, "-aec", address.ae_title, "+sd"]
    command += [address.host, str(address.port)]
    env = environment(no_delay=no_delay)
    with tempfile.TemporaryFile() as output, contextlib.ExitStack() as stack:
        started_s = time.perf_counter()
        senders: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, senders)
        for share in shares:
            folders = [str(study.folder) for study in share]
            senders.append(
                # A session of its own: Ctrl-C reaches the benchmark first, which then ends its senders.
                subprocess.Popen([*command, *folders], env=env, stdout=output, stderr=output, start_new_session=True)
            )
        watchdog = threading.Timer(timeout_s, _kill, [senders])
        stack.callback(watchdog.cancel)
        watchdog.start()
        cpu_s = sum(_wait(sender) for sender in senders)
        wall_s = time.perf_counter() - started_s
        if failed := [sender.returncode for sender in senders if sender.returncode]:
            output.seek(0)
            said = output.read()[-_LOG_TAIL:].decode(errors="replace").strip()
            raise BenchmarkError(f"{len(failed)} of {len(senders)} senders failed ({failed[0]}): {said}")
    return Sent(wall_s, cpu_s)


def _wait(sender: subprocess.Popen[bytes]) -> float:
    """Wait for the end; user and system time."""
    _, status, usage = os.wait4(sender.pid, 0)
    sender.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _kill(senders: Sequence[subprocess.Popen[bytes]]) -> None:
    for sender in senders:
        if sender.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(sender.pid, signal.SIGKILL)


def _end(senders: Sequence[subprocess.Popen[bytes]]) -> None:
    _kill(senders)
    for sender in senders:
        sender.wait()
