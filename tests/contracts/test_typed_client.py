"""A typed Python client that comes from the OpenAPI document finds similar studies, in the ten lines of the docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.query.openapi import export_openapi
from tests.fuzz.query.running import REPOSITORY, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DOCS = REPOSITORY / "docs" / "query.md"
PACKAGE = "similis_client"


def run(*command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=280, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    section = DOCS.read_text().split("## A typed client\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_client_of_the_docs_is_generated_typed_and_finds_neighbours(tmp_path: Path):
    export_openapi(tmp_path / "openapi.yaml")
    (shell,), (script,) = blocks("sh"), blocks("python")
    for line in shell.splitlines():
        if not line.startswith(("pip ", "python ")):
            local = line.replace("--url http://localhost:8080/openapi.json", "--path openapi.yaml --fail-on-warning")
            run("sh", "-c", local, folder=tmp_path)
    assert len([line for line in script.splitlines() if line]) <= 10
    (tmp_path / "similar.py").write_text(script)
    run(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        "similar.py",
        folder=tmp_path,
    )
    with running() as service:
        study = str(service.known["study_instance_uid"][0])
        told = run(sys.executable, "similar.py", service.url, "none", study, folder=tmp_path)
    lines = told.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("1 ")
    assert "research use only" in lines[-1]
