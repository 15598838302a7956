"""The listener as a process: signals, settings, kill -9 while a sender pushes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import listener_child
import pytest
from listener_harness import Running, Sample, Sender, associate, make_sample, make_settings, wait_for

from services.listener import app
from services.listener.settings import ListenerSection
from shared.archive import LocalArchive
from shared.errors import ConfigurationError
from shared.manifest import StudyManifest

KILLS = 8
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["services.listener.composition"])


def environment(folder: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIMILIS_")}
    return kept | {
        "SIMILIS_LISTENER__PORT": "0",
        "SIMILIS_LISTENER__JOURNAL_DIR": str(folder / "journal"),
        "SIMILIS_LISTENER__PSEUDONYM_KEY_FILE": str(folder / "pseudonym.key"),
        "SIMILIS_LISTENER__GENERATE_PSEUDONYM_KEY": "true",
        "SIMILIS_LISTENER__CROSSWALK_FILE": str(folder / "crosswalk"),
        "SIMILIS_LISTENER__STUDY_QUIET_S": "0.3",
        "SIMILIS_LISTENER__MIN_FREE_DISK_BYTES": "0",
        "SIMILIS_ARCHIVE__URL": str(folder / "archive"),
        "SIMILIS_ENDPOINT_FILE": str(folder / "endpoints.json"),
        "SIMILIS_KAFKA__BOOTSTRAP": "127.0.0.1:9",
        **extra,
    }


def start(command: list[str], env: dict[str, str]) -> tuple[subprocess.Popen[str], dict[str, object]]:
    endpoints = Path(env["SIMILIS_ENDPOINT_FILE"])
    endpoints.unlink(missing_ok=True)
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, cwd=Path.cwd())
    wait_for(lambda: endpoints.exists() or process.poll() is not None, 60)
    assert process.poll() is None, process.communicate()[1]
    return process, json.loads(endpoints.read_text())


SERVICE = [sys.executable, "-c", "from services.listener.app import main; main()"]


def test_without_a_broker_it_is_ready_receives_and_ends_on_sigterm(tmp_path: Path) -> None:
    process, endpoints = start(SERVICE, environment(tmp_path))
    try:
        dicom = endpoints["dicom"]
        assert isinstance(dicom, dict)
        assert dicom["ae_title"] == "SIMILIS"
        with Sender(associate(dicom["host"], dicom["port"])) as sender:
            assert sender.store(make_sample(patient_id="SECRET-1")).Status == 0x0000
        metrics = str(endpoints["metrics"])
        with urllib.request.urlopen(metrics) as answer:
            text = answer.read().decode()
        assert 'similis_listener_objects_total{outcome="stored",status="0000"} 1.0' in text
        assert "similis_listener_studies_open 1.0" in text
        with urllib.request.urlopen(metrics.replace("/metrics", "/readyz")) as answer:
            assert json.load(answer)["ready"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        assert "research use only" in log
        assert "SECRET" not in log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "warned"),
    [({"host": "0.0.0.0"}, True), ({"host": "127.0.0.1"}, False), ({"host": "0.0.0.0", "tls": {"mode": "on"}}, False)],
)
def test_a_port_beyond_loopback_without_tls_is_told_of(
    options: dict[str, object], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app._warn_if_open(ListenerSection(**options))  # type: ignore[arg-type]
    assert ("not encrypted" in caplog.text) == warned


def test_it_ends_with_an_error_when_publishing_ends(tmp_path: Path) -> None:
    code = """
from services.listener.app import main
from services.listener.completion import Completion

async def die(self):
    raise RuntimeError("dead")

Completion.run = die
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "publishing has ended" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIMILIS_LISTENER__PORT", "many"),
        ("SIMILIS_KAFKA__BOOTSTRAP", ""),
    ],
)
def test_settings_that_cannot_work_end_it_with_status_2(tmp_path: Path, name: str, value: str) -> None:
    done = subprocess.run(
        SERVICE, env=environment(tmp_path, **{name: value}), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "similis listener:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options", [{"generate_pseudonym_key": False}, {"host": "192.0.2.1"}, {"journal_dir": "/dev/null"}]
)
def test_a_key_address_or_folder_that_cannot_be_used_is_a_configuration_error(
    start_listener: Callable[..., Running], options: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError):
        start_listener(**options)


def test_it_imports_nothing_of_the_models(tmp_path: Path) -> None:
    code = "import sys, services.listener.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    for heavy in ("torch", "transformers", "qdrant_client", "qdrant_edge", "onnx", "safetensors", "scipy"):
        assert heavy not in loaded


def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(4711)
    samples = [
        make_sample(study=f"1.2.7.{n // 10}", series=f"1.2.7.{n // 10}.1", sop=f"1.2.7.{n}.9") for n in range(60)
    ]
    acknowledged: set[str] = set()
    topic = tmp_path / "topic.jsonl"
    archive = LocalArchive(tmp_path / "archive")
    kills = 0
    while len(acknowledged) < len(samples) or kills < KILLS:
        with child(tmp_path, topic) as (process, dicom):
            killer = threading.Timer(rng.uniform(0.02, 0.8), process.kill)
            if kills < KILLS:
                killer.start()
            push(dicom, [sample for sample in samples if sample.sop not in acknowledged], acknowledged)
            if kills < KILLS:
                killer.join()
                kills += 1
    with child(tmp_path, topic) as (process, _):
        wait_for(lambda: published(topic, archive) == {sample.sop for sample in samples}, 30)
        wait_for(lambda: not [path for path in (tmp_path / "journal" / "incoming").rglob("*") if path.is_file()])
        process.terminate()
        process.join(20)
        assert process.exitcode == 0
    for sample in samples:
        assert archive.get(f"instances/{sample.study}/{sample.series}/{sample.sop}.dcm").endswith(sample.dataset)
    new = Counter[str]()
    for key in archive.list("manifests"):
        manifest = StudyManifest.model_validate_json(archive.get(key))
        new.update(entry.sop_instance_uid for _, entry in manifest.instances() if entry.is_new)
    assert new == Counter(sample.sop for sample in samples)
    events = [json.loads(line) for line in topic.read_text().splitlines()]
    contents = {json.dumps(event) for event in events}
    assert len(contents) == len({event["event_id"] for event in events})


@contextlib.contextmanager
def child(folder: Path, topic: Path) -> Iterator[tuple[BaseProcess, object]]:
    """A listener process on `folder`, forked from one that has imported all it needs; dead at the end."""
    endpoints = folder / "endpoints.json"
    endpoints.unlink(missing_ok=True)
    settings = make_settings(folder, study_quiet_s=0.3).model_copy(update={"endpoint_file": endpoints})
    process = FORKSERVER.Process(target=listener_child.run, args=(settings, topic, 0.3))
    process.start()
    try:
        wait_for(lambda: endpoints.exists() or not process.is_alive(), 60)
        yield process, json.loads(endpoints.read_text())["dicom"]
    finally:
        process.kill()
        process.join()
        process.close()


def published(topic: Path, archive: LocalArchive) -> set[str]:
    lines = topic.read_text().splitlines() if topic.exists() else []
    found: set[str] = set()
    for line in lines:
        manifest = StudyManifest.model_validate_json(archive.get(json.loads(line)["manifest_key"]))
        found.update(entry.sop_instance_uid for _, entry in manifest.instances())
    return found


def push(dicom: object, samples: list[Sample], acknowledged: set[str]) -> None:
    """Send until done or cut off, noting each Success."""
    assert isinstance(dicom, dict)
    assoc = associate(dicom["host"], dicom["port"])
    if not assoc.is_established:
        return
    with Sender(assoc) as sender:
        for sample in samples:
            try:
                status = sender.store(sample)
            except AssertionError:
                return
            if status.Status == 0x0000:
                acknowledged.add(sample.sop)
            time.sleep(0.005)
