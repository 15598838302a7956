"""`similis index` and `similis query` on loopback, with empty folders."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import SimilisError
from shared.vector_index.edge_settings import IndexSection

_START_S: Final = 180.0
_STOP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """Two processes that answer."""

    url: str
    socket: Path
    index_metrics: str
    flat_below_points: int


@contextlib.contextmanager
def running(work: Path) -> Iterator[Service]:
    """Both, ready; ended afterwards.

    Raises:
        SimilisError: one did not come up.
    """
    # A Unix socket's path must be short, whatever the folder is.
    with tempfile.TemporaryDirectory(prefix="similis-") as short, contextlib.ExitStack() as ending:
        socket = Path(short) / "index.sock"
        index_file, query_file = work / "index.json", work / "query.json"
        command = ["index", "--data", str(work / "index"), "--socket", str(socket), "--endpoint-file", str(index_file)]
        index = ending.enter_context(_process(work, "index", command, index_file, {}))
        environment = {
            "SIMILIS_QDRANT__SOCKET": str(socket),
            "SIMILIS_QDRANT__TIMEOUT_S": "120",
            "SIMILIS_ARCHIVE__URL": str(work / "archive"),
            "SIMILIS_QUERY__PORT": "0",
            "SIMILIS_QUERY__RATE_LIMIT__SEARCHES_PER_MINUTE": "0",
            "SIMILIS_QUERY__RATE_LIMIT__UPLOADS_PER_MINUTE": "0",
            "SIMILIS_ENDPOINT_FILE": str(query_file),
        }
        query = ending.enter_context(_process(work, "query", ["query"], query_file, environment))
        yield Service(query["http"], socket, index["metrics"], IndexSection().flat_below_points)


@contextlib.contextmanager
def _process(
    work: Path, name: str, command: list[str], endpoints: Path, environment: dict[str, str]
) -> Iterator[dict[str, str]]:
    log = work / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from services.cli import main; main()", *command],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline_s = time.monotonic() + _START_S
        while not endpoints.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SimilisError(f"{name} did not come up: {log.read_bytes()[-2_000:].decode(errors='replace')}")
            time.sleep(0.1)
        yield json.loads(endpoints.read_text())
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
