"""A running query service to be fuzzed, with what it knows and must not tell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from services.query.access.api_keys import changing, new_key
from services.query.access.users import Role
from shared.archive import LocalArchive
from shared.errors import IndexUnavailableError
from shared.events import Decision
from shared.settings import QdrantSettings
from shared.vector_index import collection_name, open_index
from tests.fuzz.query.answers import Answer, FindingError, Secrets, check_answer
from tests.services.query.light_box_seed import (
    CALLING_AE,
    LABELS,
    PATIENT_ID,
    PATIENT_NAME,
    FakeEncoder,
    Seed,
)

REPOSITORY: Final = Path(__file__).resolve().parents[3]
START_S: Final = 60.0
UPLOAD_MAX_BYTES: Final = 400_000
_INDEX: Final = (
    "import sys, pathlib; from shared.vector_index import serve_edge; serve_edge(*map(pathlib.Path, sys.argv[1:]))"
)


@dataclass(slots=True)
class Service:
    """One service and its archive of phantom studies.

    Attributes:
        known: Values that it knows, by the name of the parameter that takes them.
        answers: How many there were so far of each status; None: there was none, and none was due.
    """

    folder: Path
    host: str
    port: int
    process: subprocess.Popen[bytes]
    known: dict[str, list[object]]
    secrets: Secrets
    files: list[bytes]
    answers: Counter[int | None] = field(default_factory=Counter)
    _read: int = field(default=0)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def check(self, answer: Answer, told: str) -> None:
        """Count a request that was answered, and look for what no answer may be.

        Raises:
            FindingError: the answer is one of those; `told` says how to ask again.
        """
        self.answers[answer.status] += 1
        try:
            check_answer(answer, self.secrets)
        except FindingError as error:
            raise FindingError(f"{error}\n  asked: {told}\n  answered: {answer}") from None

    def new_log(self) -> str:
        """What it logged since it was looked at."""
        text = (self.folder / "log").read_bytes()[self._read :]
        self._read += len(text)
        return text.decode(errors="replace")

    def memory_bytes(self) -> int:
        """Resident memory of its process."""
        return psutil.Process(self.process.pid).memory_info().rss

    def check_itself(self) -> None:
        """Look at the process: alive, its log, what it touched, what it left.

        Raises:
            FindingError: something is not as it must be.
        """
        log = self.new_log()
        if self.process.poll() is not None:
            raise FindingError(f"the service ended: {log[-3000:]}")
        for word in ("Traceback", "ERROR", "Exception in", *self.secrets.words):
            if word in log:
                raise FindingError(f"{word!r} in the log: {log[-3000:]}")
        touched = (self.folder / "touched").read_text()
        if touched:
            raise FindingError(f"the service went where it has no business: {touched[:3000]}")
        left = [path.name for path in (self.folder / "tmp").iterdir() if not path.name.startswith("pymp-")]
        if left:
            raise FindingError(f"temporary files are left: {left[:5]}")
        written = {path.name for path in (self.folder / "archive").iterdir()}
        if not written <= {"manifests", "diagnoses", "explanations", "labels", "instances"}:
            raise FindingError(f"unknown folders in the archive: {written}")


@contextlib.contextmanager
def running(*, asks_who: bool = False) -> Iterator[Service]:
    """A service over an archive and an embedded index of their own; `asks_who`: it lets in whoever has a key."""
    # A Unix socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="similis-"))
    (folder / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIMILIS_")}
    socket = folder / "index.sock"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        index = subprocess.Popen([sys.executable, "-c", _INDEX, str(folder / "index"), str(socket)], env=environment)
        stack.callback(_end, index)
        seed = _seeded(folder, socket)
        (folder / "touched").touch()
        log = stack.enter_context(open(folder / "log", "wb"))
        service = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.query.served", str(folder)],
            cwd=REPOSITORY,
            stderr=log,
            env=environment
            | {
                "TMPDIR": str(folder / "tmp"),
                "SIMILIS_ARCHIVE__URL": str(folder / "archive"),
                "SIMILIS_QDRANT__SOCKET": str(socket),
                "SIMILIS_ENDPOINT_FILE": str(folder / "endpoints.json"),
                "SIMILIS_QUERY__PORT": "0",
                "SIMILIS_QUERY__UPLOAD_MAX_BYTES": str(UPLOAD_MAX_BYTES),
                "SIMILIS_QUERY__UPLOAD_MAX_DECODED_BYTES": "4000000",
                "SIMILIS_QUERY__EVENT_STREAM_MAX_S": "0.02",
                # How often one may ask is not the question here.
                "SIMILIS_QUERY__RATE_LIMIT__SEARCHES_PER_MINUTE": "0",
                "SIMILIS_QUERY__RATE_LIMIT__UPLOADS_PER_MINUTE": "0",
                "SIMILIS_QUERY__RATE_LIMIT__WRITES_PER_MINUTE": "0",
                "SIMILIS_QUERY__RATE_LIMIT__FAILED_SIGN_INS_PER_MINUTE": "0",
            }
            | ({"SIMILIS_QUERY__AUTH__KEYS_FILE": str(_keys_file(folder))} if asks_who else {}),
        )
        stack.callback(_end, service)
        host, port = _address(service, folder)
        yield Service(folder, host, port, service, _known(seed), _secrets(seed, folder), _files(seed))


def _keys_file(folder: Path) -> Path:
    path = folder / "keys" / "keys.json"
    with changing(path) as records:
        records.append(new_key("somebody", Role.READER, created_at=datetime.now(UTC), expires_at=None)[1])
    return path


def _seeded(folder: Path, socket: Path) -> Seed:
    encoder = FakeEncoder()
    index = open_index(QdrantSettings(socket=socket), collection=collection_name(encoder.id), dim=encoder.dim)
    _until(lambda: _answers(index))
    seed = Seed(LocalArchive(folder / "archive"), index, encoder)  # type: ignore[arg-type]
    for number, label in enumerate(LABELS * 2, start=1):
        is_normal = label == "normal"
        decision = Decision.NO_FINDING if is_normal else Decision.FINDING
        seed.study(number, label=label, decision=decision, explained=not is_normal and number < 5, slices=2)
    seed.study(20, decision=None, label=None, slices=1)
    index.close()
    return seed


def _answers(index: object) -> bool:
    try:
        index.count()  # type: ignore[attr-defined]
    except IndexUnavailableError:
        return False
    return True


def _address(service: subprocess.Popen[bytes], folder: Path) -> tuple[str, int]:
    endpoints = folder / "endpoints.json"
    _until(lambda: endpoints.exists() or service.poll() is not None)
    assert endpoints.exists(), (folder / "log").read_text()
    host, port = json.loads(endpoints.read_text())["http"].removeprefix("http://").rsplit(":", 1)
    return host, int(port)


def _known(seed: Seed) -> dict[str, list[object]]:
    studies = seed.studies
    return {
        "study_instance_uid": [study.uid for study in studies],
        "series_instance_uid": [study.series for study in studies],
        "sop_instance_uid": [sop for study in studies for sop in study.sops],
        "frame_number": [1],
        "task": ["brain-mr"],
        "name": [study.map_name for study in studies if study.map_name],
        "label": ["normal", "glioma-like"],
        "space": ["visual"],
        "region": ["0.2,0.2,0.5,0.5"],
        "vector": [[0.5] * seed.encoder.dim],
    }


def _secrets(seed: Seed, folder: Path) -> Secrets:
    identity = [PATIENT_NAME, *PATIENT_NAME.split("^")[1:], PATIENT_ID, CALLING_AE]
    pseudonyms = [study.pseudonym for study in seed.studies]
    return Secrets(words=(*identity, *pseudonyms), places=(str(folder), str(REPOSITORY), sys.prefix))


def _files(seed: Seed) -> list[bytes]:
    return [seed.studies[0].files[0], seed.studies[5].files[1]]


def _until(true: object) -> None:
    ends = time.monotonic() + START_S
    while not true():  # type: ignore[operator]
        assert time.monotonic() < ends, "it does not start"
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
