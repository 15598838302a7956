from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from services.local import doctor, kafka_jars
from services.local.doctor import Finding, Verdict, examine
from services.local.ports import free_port
from services.local.run_dir import RunDir
from services.local.settings import LocalSettings


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in list(os.environ):
        if name.startswith("SIMILIS_"):
            monkeypatch.delenv(name)
    return tmp_path


def found(settings: LocalSettings, check: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setattr(doctor, "CHECKS", tuple(one for one in doctor.CHECKS if one[0] == check))
    return examine(settings)


def test_a_misspelled_setting_is_pointed_out(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILIS_KAFAK__BOOTSTRAP", "x:1")
    monkeypatch.setenv("SIMILIS_QUERY__PORT", "1")
    [finding] = found(LocalSettings(data=clean), "settings", monkeypatch)
    assert finding.verdict is Verdict.WARN
    assert "SIMILIS_KAFAK__BOOTSTRAP" in finding.what
    assert "SIMILIS_QUERY__PORT" not in finding.what


def test_a_setting_of_the_wrong_kind_fails_in_plain_words(
    clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMILIS_LOCAL__KAFKA_HEAP_MB", "much")
    monkeypatch.setenv("COLUMNS", "200")
    assert doctor.run(clean) == 1
    assert "SIMILIS_LOCAL__KAFKA_HEAP_MB" in capsys.readouterr().out


def test_a_taken_port_fails_and_a_free_one_does_not(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = LocalSettings(data=clean, dicom_port=taken.getsockname()[1], http_port=free_port())
        dicom, http = found(settings, "ports", monkeypatch)
    assert dicom.verdict is Verdict.FAIL
    assert "--dicom-port" in dicom.what
    assert http.verdict is Verdict.OK


def test_a_broker_that_does_not_answer_fails(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILIS_KAFKA__BOOTSTRAP", "127.0.0.1:1")
    [finding] = found(LocalSettings(data=clean), "broker", monkeypatch)
    assert finding.verdict is Verdict.FAIL
    assert "127.0.0.1:1" in finding.what


def test_missing_java_fails_with_what_to_install(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clean))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("SIMILIS_LOCAL__ALLOW_VOLATILE_BROKER", "false")
    [finding] = found(LocalSettings(data=clean), "broker", monkeypatch)
    assert finding.verdict is Verdict.FAIL
    assert "Java" in finding.what


def test_a_changed_jar_fails(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILIS_VISION__CACHE_DIR", str(clean))
    monkeypatch.setattr(kafka_jars, "java", lambda: "/usr/bin/java")
    kafka_jars.jars_folder(clean).mkdir(parents=True)
    [finding] = found(LocalSettings(data=clean), "broker", monkeypatch)
    assert finding.verdict is Verdict.FAIL
    assert "is missing" in finding.what


def test_an_archive_that_cannot_be_written_fails(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILIS_ARCHIVE__URL", "/proc/similis")  # not even root may write there
    [finding] = found(LocalSettings(data=clean), "archive", monkeypatch)
    assert finding.verdict is Verdict.FAIL


def test_little_room_is_a_warning(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    [finding] = found(LocalSettings(data=clean), "archive", monkeypatch)
    assert finding.verdict is Verdict.WARN


def test_weights_that_are_not_there_fail(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILIS_VISION__BACKBONE", str(clean / "nothing"))
    [finding] = found(LocalSettings(data=clean), "weights", monkeypatch)
    assert finding.verdict is Verdict.FAIL


def test_a_running_profile_is_recognised_and_its_services_are_asked(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LocalSettings(data=clean)
    assert doctor.endpoints_of_running(clean) is None
    running = RunDir(clean)
    assert doctor.endpoints_of_running(clean) == {}
    running.write_endpoints({"metrics": {"query": f"http://127.0.0.1:{free_port()}/metrics"}})
    [finding] = found(settings, "profile", monkeypatch)
    assert finding.verdict is Verdict.FAIL
    assert "query.log" in finding.what
    running.release(clean=False)
    assert json.loads((clean / "run" / "endpoints.json").read_text())
    assert doctor.endpoints_of_running(clean) is None


def test_cuda_without_a_driver_fails(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clean))
    [quiet] = found(LocalSettings(data=clean), "GPU", monkeypatch)
    assert quiet.verdict is Verdict.OK
    monkeypatch.setenv("SIMILIS_VISION__DEVICE", "cuda:0")
    [finding] = examine(LocalSettings(data=clean))
    assert finding.verdict is Verdict.FAIL


def test_the_table_shows_brackets_as_they_are(clean: Path) -> None:
    console = Console(width=200, record=True)
    doctor.show(console, [Finding("broker", Verdict.FAIL, "install the extra similis[index]")])
    assert "similis[index]" in console.export_text()
