from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.local import run_dir
from services.local.run_dir import RunDir
from shared.errors import ConfigurationError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_dir, "OWNER_GRACE_S", 0.2)


def test_a_second_owner_is_refused_and_told_who_owns_it(tmp_path: Path) -> None:
    first = RunDir(tmp_path)
    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}"):
        RunDir(tmp_path)
    first.release(clean=True)
    RunDir(tmp_path).release(clean=True)


def test_the_folder_is_free_again_once_its_owner_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys; from services.local.run_dir import RunDir\n"
        "RunDir(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[3], check=False, capture_output=True
    )
    left = Path((tmp_path / "run" / "socket-folder").read_text())
    assert left.is_dir()
    second = RunDir(tmp_path)
    assert not left.exists()
    second.release(clean=True)


def test_stale_addresses_do_not_outlive_the_run_that_wrote_them(tmp_path: Path) -> None:
    killed = RunDir(tmp_path)
    killed.write_endpoints({"http": "http://127.0.0.1:1"})
    killed.service_file("query").write_text('{"pid": 1}')
    killed.release(clean=False)
    assert killed.endpoints.exists()
    fresh = RunDir(tmp_path)
    assert not fresh.endpoints.exists()
    assert fresh.read_service("query", 1) is None
    fresh.write_endpoints({})
    fresh.release(clean=True)
    assert not fresh.endpoints.exists()


def test_addresses_count_only_if_the_running_process_wrote_them(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.service_file("query").write_text('{"http": "x", "pid": 41}')
    assert folder.read_service("query", 42) is None
    assert folder.read_service("query", 41) == {"http": "x", "pid": 41}
    folder.release(clean=True)


def test_the_sockets_folder_is_private_and_short_enough_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    folder = RunDir(tmp_path)
    assert stat.S_IMODE(folder.socket_folder.stat().st_mode) == 0o700
    assert len(str(folder.socket_folder / "index.sock")) < 100
    folder.release(clean=True)
    assert not folder.socket_folder.exists()


def test_a_folder_that_cannot_be_made_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        RunDir(tmp_path / "file")
