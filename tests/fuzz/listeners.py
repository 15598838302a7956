"""Listeners to be fuzzed: in threads of this process, and in one of their own."""

from __future__ import annotations

import logging
import re
import threading
import urllib.request
from pathlib import Path

from services.listener import metrics
from tests.faults.real_listener import RealListener
from tests.fuzz.exchange import FindingError
from tests.fuzz.target import Target, comes
from tests.fuzz.templates import IDENTITY
from tests.services.listener.listener_harness import Running, make_settings


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # DEBUG of libraries is off in the process; the listener's own is not.
        if record.levelno >= logging.INFO or record.name.startswith(("services", "shared")):
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            self.lines.append((record.levelno, f"{record.name}: {record.getMessage()}\n{trace}"))


class ThreadTarget(Target):
    """A listener in threads of this process: quick, and open to inspection."""

    def __init__(self, folder: Path, **options: object) -> None:
        self._running = Running(make_settings(folder, **options)).start()
        super().__init__(self._running.host, self._running.port, folder)
        self._log = _Log()
        self._levels = {name: logging.getLogger(name).level for name in ("", "pydicom", "pynetdicom")}
        for name in ("pydicom", "pynetdicom"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        logging.getLogger().addHandler(self._log)
        logging.getLogger().setLevel(logging.INFO)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def open_descriptors(self) -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def open_associations(self) -> int:
        return int(metrics.ASSOCIATIONS_OPEN._value.get())

    def log_lines(self) -> list[tuple[int, str]]:
        lines, self._log.lines = self._log.lines, []
        return lines

    def settle(self) -> None:
        if not comes(lambda: not any(thread.name == "dicom-association" for thread in threading.enumerate())):
            raise FindingError("an association's thread lives on without its peer")

    def check_all(self) -> None:
        super().check_all()
        text = "\n".join(event.model_dump_json() for _, event in list(self._running.publisher.events))
        text += "\n".join(path.read_text() for path in (self.folder / "archive" / "manifests").rglob("*.json"))
        for value in IDENTITY:
            if value in text:
                raise FindingError("identity in an event or a manifest")

    def stop(self) -> None:
        logging.getLogger().removeHandler(self._log)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._running.stop()


class ProcessTarget(Target):
    """The listener's own process, without a broker."""

    def __init__(self, folder: Path) -> None:
        self._process = RealListener(folder)
        super().__init__(self._process.host, self._process.port, folder)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def open_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def open_threads(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def open_associations(self) -> int:
        with urllib.request.urlopen(self._process.metrics_url) as answer:
            found = re.search(r"^similis_listener_associations_open (\S+)", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return int(float(found[1]))

    def log_lines(self) -> list[tuple[int, str]]:
        lines = self._process.new_log_lines()
        # The broker is away on purpose, and says so.
        return [
            (logging.ERROR if re.search(r"ERROR|CRITICAL|Traceback", line) else logging.INFO, line)
            for line in lines
            if "127.0.0.1:9" not in line
        ]

    def settle(self) -> None:
        return

    def check_case(self) -> None:
        if not self._process.is_alive:
            raise FindingError(f"the process ended: {self._process.new_log_lines()[-20:]}")
        self.check_log()

    def check_all(self) -> None:
        super().check_all()
        if not comes(lambda: not list((self.journal / "receiving").iterdir())):
            raise FindingError("temporary files are left")

    def stop(self) -> int:
        return self._process.stop()
