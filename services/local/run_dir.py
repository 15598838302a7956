"""DIR/run: who owns the folder, what runs for it, and where it answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from services.local import child
from shared.errors import ConfigurationError

# A Unix socket's path may have 107 characters on Linux, 103 on macOS; the engine's adds `/index.sock`.
LONGEST_SOCKET_FOLDER: Final = 80
OWNER_GRACE_S: Final = 3.0


class RunDir:
    """The run folder, owned by one `similis up` at a time."""

    def __init__(self, data: Path) -> None:
        """Take the folder.

        Raises:
            ConfigurationError: another `similis up` runs on it, or it cannot be written.
        """
        self.path = data / "run"
        self.services = self.path / "services"
        self.endpoints = self.path / "endpoints.json"
        try:
            self.services.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the data folder {data} cannot be used: {error}") from error
        try:
            self._own(data)
            self.endpoints.unlink(missing_ok=True)
            child.end_recorded(self.path / "children.json")
            self._drop_socket_folder()
            for stale in self.services.iterdir():
                stale.unlink()
            self.socket_folder = self._make_socket_folder()
        except BaseException:
            os.close(self._lock)
            raise

    def _own(self, data: Path) -> None:
        # One that was just killed may need a moment until the kernel has closed its files.
        deadline = time.monotonic() + OWNER_GRACE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                owner = os.pread(self._lock, 32, 0).decode().strip() or "unknown"
                raise ConfigurationError(f"another `similis up` (process {owner}) runs on {data}") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _make_socket_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="similis-"))
        if len(os.fsencode(folder)) > LONGEST_SOCKET_FOLDER:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="similis-", dir="/tmp"))
        (self.path / "socket-folder").write_text(str(folder))
        return folder

    def _drop_socket_folder(self) -> None:
        note = self.path / "socket-folder"
        with contextlib.suppress(OSError):
            folder = Path(note.read_text())
            if folder.name.startswith("similis-"):
                shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)

    def record_children(self, pids: list[int]) -> None:
        """Note running children, for the run after one that was killed."""
        child.record(self.path / "children.json", pids)

    def service_file(self, name: str) -> Path:
        """Where a service writes its addresses."""
        return self.services / f"{name}.json"

    def read_service(self, name: str, pid: int) -> dict[str, Any] | None:
        """What the service with process `pid` wrote, if it has."""
        try:
            written: dict[str, Any] = json.loads(self.service_file(name).read_text())
        except (OSError, ValueError):
            return None
        return written if written.get("pid") == pid else None

    def write_endpoints(self, endpoints: dict[str, Any]) -> None:
        """Write DIR/run/endpoints.json in one step."""
        temporary = self.endpoints.with_suffix(".tmp")
        temporary.write_text(json.dumps(endpoints, indent=2) + "\n")
        os.replace(temporary, self.endpoints)

    def release(self, *, clean: bool) -> None:
        """Give the folder back; `clean` False leaves everything as a killed run would."""
        if clean:
            self.endpoints.unlink(missing_ok=True)
            (self.path / "children.json").unlink(missing_ok=True)
            self._drop_socket_folder()
        os.close(self._lock)
