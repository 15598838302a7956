"""What the tests see of a running profile from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from confluent_kafka import Consumer

QUIET_S = 2.0


def dcmtk(program: str) -> str:
    """The path of one of DCMTK's programs; skips without it, fails where the peers are required.

    pynetdicom installs scripts of the same names beside the interpreter: those are not meant.
    """
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder not in own)
    found = shutil.which(program, path=path)
    if found is not None:
        return found
    if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
        pytest.fail(f"SIMILIS_REQUIRE_PEERS=1, but DCMTK's {program} is missing")
    pytest.skip(f"DCMTK's {program} is not installed")


def require_kafka() -> None:
    if all(shutil.which(program) for program in ("java", "mvn")):
        return
    if os.environ.get("SIMILIS_REQUIRE_KAFKA") == "1":
        pytest.fail("SIMILIS_REQUIRE_KAFKA=1, but Java or Maven is missing")
    pytest.skip("Java or Maven is missing, so no Apache Kafka")


@dataclass
class System:
    """A running profile."""

    data: Path
    endpoints: dict[str, Any]
    http: httpx.Client

    @property
    def dicom(self) -> tuple[str, str, str]:
        """AE title, host and port, as DCMTK's programs want them."""
        dicom = self.endpoints["dicom"]
        return dicom["ae_title"], dicom["host"], str(dicom["port"])

    def archived(self) -> dict[str, Path]:
        """SOP Instance UID to the archived file."""
        return {path.stem: path for path in (self.data / "archive" / "instances").rglob("*.dcm")}

    def metric(self, service: str, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.http.get(self.endpoints["metrics"][service]).text
        assert f"# TYPE {name.removesuffix('_total')}" in text, f"{service} has no metric {name}"
        lines = (line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@dataclass
class Subscriber:
    """A plain Kafka client that knows nothing of Similis: bytes in, JSON out."""

    consumer: Consumer
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    malformed: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def read(self, done: Callable[[list[tuple[str, dict[str, str], Any]]], bool], timeout_s: float = 240.0) -> None:
        """Read until `done` is true of the records seen: (topic, headers, JSON value)."""
        deadline = time.monotonic() + timeout_s
        while not done(self.seen):
            assert time.monotonic() < deadline, f"not in time; seen {[topic for topic, _, _ in self.seen]}"
            message = self.consumer.poll(0.5)
            if message is None or message.error():
                continue
            headers = {name: value.decode() for name, value in message.headers() or []}
            try:
                value = json.loads(message.value())
                value["study_instance_uid"]
            except (ValueError, TypeError, KeyError):
                self.malformed.append((message.topic(), headers, message.value()))
            else:
                self.seen.append((message.topic(), headers, value))

    def diagnoses(self) -> dict[str, list[Any]]:
        """By study, the diagnosis events seen so far."""
        found: dict[str, list[Any]] = {}
        for topic, _, value in self.seen:
            if topic.startswith("similis.diagnosis.") and topic.endswith(".v1"):
                found.setdefault(value["study_instance_uid"], []).append(value)
        return found

    def wait_diagnosed(self, studies: set[str]) -> dict[str, list[Any]]:
        """Read until each of `studies` has a diagnosis."""
        self.read(lambda _: studies <= self.diagnoses().keys())
        return self.diagnoses()


@contextlib.contextmanager
def subscribed(bootstrap: str) -> Iterator[Subscriber]:
    """A subscriber to every topic, from the first record on."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"e2e-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": 1000,
        }
    )
    consumer.subscribe(["^similis\\..*"])
    try:
        yield Subscriber(consumer)
    finally:
        consumer.close()


def frames_indexed(http: httpx.Client, sop_instance_uid: str) -> int:
    """How many frames of an instance the vector index holds, as a search by it says."""
    answer = http.post("/v1/search", json={"sop_instance_uid": sop_instance_uid, "limit": 1})
    if answer.status_code == httpx.codes.NOT_FOUND:
        return 0
    return int(answer.raise_for_status().json()["query"]["frames_used"])


def dataset_bytes(path: Path) -> bytes:
    """The data set's bytes of a Part 10 file: what follows preamble, prefix and file meta group."""
    data = path.read_bytes()
    meta = pydicom.filereader.read_file_meta_info(path)
    # PS3.10 section 7.1: 128 bytes preamble, 4 prefix, 12 for the group length element itself.
    return data[128 + 4 + 12 + int(meta.FileMetaInformationGroupLength) :]
