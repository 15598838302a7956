"""The listener's own process, as it is deployed, but for its ports and folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_COMMAND: Final = [sys.executable, "-c", "from services.listener.app import main; main()"]
_START_S: Final = 60.0


class RealListener:
    """A listener on `folder`, started. `environment` adds settings to the usual ones."""

    def __init__(
        self, folder: Path, *, bootstrap: str = "127.0.0.1:9", environment: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        endpoints = folder / "endpoints.json"
        endpoints.unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIMILIS_")}
        settings = {
            "SIMILIS_LISTENER__PORT": "0",
            "SIMILIS_LISTENER__JOURNAL_DIR": str(folder / "journal"),
            "SIMILIS_LISTENER__PSEUDONYM_KEY_FILE": str(folder / "pseudonym.key"),
            "SIMILIS_LISTENER__GENERATE_PSEUDONYM_KEY": "true",
            "SIMILIS_LISTENER__CROSSWALK_FILE": str(folder / "crosswalk"),
            "SIMILIS_LISTENER__STUDY_QUIET_S": "0.3",
            "SIMILIS_LISTENER__MIN_FREE_DISK_BYTES": "0",
            "SIMILIS_ARCHIVE__URL": str(folder / "archive"),
            "SIMILIS_ENDPOINT_FILE": str(endpoints),
            "SIMILIS_KAFKA__BOOTSTRAP": bootstrap,
        }
        self._log = folder / "listener.log"
        self._read = 0
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                _COMMAND, env=kept | settings | (environment or {}), stdout=log, stderr=log, cwd=ROOT
            )
        deadline_s = time.monotonic() + _START_S
        while not endpoints.exists():
            if not self.is_alive or time.monotonic() > deadline_s:
                self._process.kill()
                raise AssertionError(f"the listener did not start: {self.log}")
            time.sleep(0.02)
        known = json.loads(endpoints.read_text())
        self.host, self.port = str(known["dicom"]["host"]), int(known["dicom"]["port"])
        self.metrics_url = str(known["metrics"])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def new_log_lines(self) -> list[str]:
        """What was logged since the last call, in whole lines."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()

    def stop(self) -> int:
        """End it as systemd would; its exit status."""
        if self.is_alive:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
