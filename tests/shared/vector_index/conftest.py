"""An owner process that can be killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import pytest

from shared.settings import QdrantSettings
from shared.vector_index import open_index
from shared.vector_index.port import FramePayload, FramePoint, VectorIndex

DIM = 32
SERVE = """
import sys
from pathlib import Path
from shared.errors import ConfigurationError
from shared.vector_index import serve_edge
try:
    serve_edge(Path(sys.argv[1]), Path(sys.argv[2]), endpoint_file=Path(sys.argv[3]))
except ConfigurationError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


class Owner:
    """`similis index` on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.socket = folder / "index.sock"
        self.endpoints = folder / "endpoints.json"
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, data: Path | None = None, socket: Path | None = None) -> list[str]:
        return [sys.executable, "-c", SERVE, *map(str, (data or self.data, socket or self.socket, self.endpoints))]

    def start(self, *, wait: bool = True) -> None:
        self.endpoints.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command(), env={**os.environ, **self.environment})
        if wait:
            self.wait_ready()

    def wait_ready(self) -> dict[str, object]:
        for _ in range(1200):
            if self.endpoints.exists():
                return json.loads(self.endpoints.read_text())
            assert self.process is not None
            assert self.process.poll() is None, "the owner ended while starting"
            time.sleep(0.02)
        pytest.fail("the owner did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def index(self, collection: str = "frames", *, dim: int = DIM, timeout_s: float = 20.0) -> VectorIndex:
        return open_index(QdrantSettings(socket=self.socket, timeout_s=timeout_s), collection=collection, dim=dim)


@pytest.fixture
def owner() -> Iterator[Owner]:
    folder = Path(tempfile.mkdtemp(prefix="similis-"))  # tmp_path is too long for a Unix socket
    owner = Owner(folder)
    yield owner
    if owner.process is not None and owner.process.poll() is None:
        owner.kill()
    shutil.rmtree(folder)


def make_frames(start: int, count: int) -> list[FramePoint]:
    """Points number `start` and on: the same numbers give the same points."""
    made = []
    for number in range(start, start + count):
        vector = np.random.default_rng(number).normal(size=DIM).astype(np.float32)
        payload = FramePayload(
            study_instance_uid=f"1.2.{number // 10}",
            series_instance_uid=f"1.2.{number // 10}.1",
            sop_instance_uid=f"1.2.{number // 10}.1.{number}",
            frame_number=1,
            revision=1,
            modality="MR",
            patient_pseudonym=f"p{number % 7}",
            backbone_id="b",
            task="none",
            decision="none",
        )
        made.append(FramePoint(uuid5(NAMESPACE_OID, str(number)), vector, payload))
    return made


@pytest.fixture
def frames():
    """`make_frames`."""
    return make_frames


@pytest.fixture(scope="module")
def shared_owner() -> Iterator[Owner]:
    """One owner with 20 points for tests that change nothing; it takes at most 100 kB a request."""
    folder = Path(tempfile.mkdtemp(prefix="similis-"))
    owner = Owner(folder)
    owner.environment = {"SIMILIS_INDEX__MAX_REQUEST_BYTES": "100000"}
    owner.start()
    index = owner.index()
    index.upsert(make_frames(0, 20))
    index.close()
    yield owner
    assert owner.stop() == 0
    shutil.rmtree(folder)
