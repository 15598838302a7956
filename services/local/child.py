"""A child process of the one-machine profile: tied to its parent, its output kept in a file."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

TETHER: Final = Path(__file__).with_name("tether.py")
TAIL_LINES: Final = 40


class Child:
    """One run of a command.

    The parent's thread that starts it must live as long as the child may: the kernel ties the child
    to the thread, not to the process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        log_bytes: int,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str, str], None] | None = None,
    ) -> None:
        """Start the command.

        Args:
            name: how it is called in the log.
            command: the program and its arguments.
            log_file: gets its output; one older file of the same size is kept beside it.
            log_bytes: size at which a new log file begins.
            env: its whole environment; None for the parent's.
            on_line: is called from a thread with `name` and each line of its output.
        """
        self.name = name
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._on_line = on_line
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(log_file, maxBytes=log_bytes, backupCount=1, encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            # Its own session: Ctrl-C in a terminal reaches the parent only, which stops all in order.
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._pump = threading.Thread(target=self._read, args=(handler,), name=f"log-{name}", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def tail(self) -> str:
        """The last lines of its output."""
        return "\n".join(self._tail)

    def terminate(self) -> None:
        """Ask it to end."""
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it now, as `kill -9`."""
        if self.exit_code is None:
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; whether it came in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._pump.join(5.0)
        return True

    def stop(self, timeout_s: float) -> None:
        """Ask it to end; kill it if it does not in time."""
        self.terminate()
        if not self.wait(timeout_s):
            log.warning("%s does not stop within %.0f s and is killed", self.name, timeout_s)
            self.kill()
            self.wait(5.0)

    def _read(self, handler: RotatingFileHandler) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                text = line.rstrip("\n")
                self._tail.append(text)
                handler.emit(logging.LogRecord(self.name, logging.INFO, "", 0, text, (), None))
                if self._on_line is not None:
                    self._on_line(self.name, text)
        handler.close()


def birth(pid: int) -> str | None:
    """What tells a process from a later one with the same id; None if there is none."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything
        return None if fields[0] == "Z" else fields[19]  # proc(5): field 22, start time
    started = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return started.stdout.strip() or None


def record(path: Path, pids: Sequence[int]) -> None:
    """Note running children in `path`, for `end_recorded` in a later run."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({str(pid): birth(pid) for pid in pids}))
    os.replace(temporary, path)


def end_recorded(path: Path) -> list[int]:
    """Kill the children that a killed run left behind; their ids."""
    try:
        noted: dict[str, str | None] = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    left = [int(pid) for pid, born in noted.items() if born is not None and birth(int(pid)) == born]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    path.unlink(missing_ok=True)
    return left
