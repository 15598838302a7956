"""The command line: what is given, what comes from the environment, and how errors look."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import services.local.app
from services.cli import app
from services.local.settings import LocalSettings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[LocalSettings]:
    """Settings that `similis up` would run with."""
    seen: list[LocalSettings] = []

    def up(settings: LocalSettings) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(services.local.app, "up", up)
    return seen


def test_up_takes_from_the_environment_what_is_not_given(
    started: list[LocalSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIMILIS_DICOM_PORT", "10499")
    monkeypatch.setenv("SIMILIS_STUDY_QUIET_S", "77")
    monkeypatch.setenv("SIMILIS_HTTP_PORT", "1")
    assert CliRunner().invoke(app, ["up", "--data", str(tmp_path), "--http-port", "0"]).exit_code == 0
    (settings,) = started
    assert (settings.dicom_port, settings.study_quiet_s) == (10499, 77.0)
    assert (settings.data, settings.http_port) == (tmp_path, 0)
    assert settings.ae_title == "SIMILIS"


def run(*arguments: str, **environment: str) -> Any:
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_wrong_setting_is_one_line_that_names_it() -> None:
    done = run("up", SIMILIS_DICOM_PORT="seventy")
    assert done.returncode == 2
    assert "SIMILIS_DICOM_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_explains_itself() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for command in ("listener", "embedder", "explainer", "query", "index", "up", "demo", "doctor", "phantom", "train"):
        assert command in text
    assert "Research use only" in text
