"""The process: its exit codes, its imports, and its life without a broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from services.explainer import app
from services.explainer.settings import ExplainerSettings
from shared.errors import WeightsError
from shared.settings import ArchiveSettings, KafkaSettings, VisionSettings
from shared.vision.heads import LinearHead

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SIMILIS_")}


def python(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | settings,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def settings_for(folder: Path, **vision: object) -> ExplainerSettings:
    return ExplainerSettings(
        archive=ArchiveSettings(url=str(folder / "archive")),
        kafka=KafkaSettings(bootstrap="127.0.0.1:1", send_timeout_s=0.3),
        vision=VisionSettings(cache_dir=folder / "cache", device="cpu", **vision),
        endpoint_file=folder / "explainer.json",
    )


def test_composition_is_imported_without_torch():
    code = "import sys, services.explainer.app; print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"

    assert python(code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [("SIMILIS_EXPLAINER__DELTA", "-1", "delta"), ("SIMILIS_ARCHIVE__URL", "gopher://x", "SIMILIS_ARCHIVE__URL")],
)
def test_a_wrong_setting_ends_with_2_and_a_message(name, value, named):
    ended = python("from services.explainer.app import main; main()", **{name: value})

    assert ended.returncode == 2, ended.stderr
    assert named in ended.stderr


async def test_missing_weights_stop_the_start(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(WeightsError, match="empty"):
        await app.run(settings_for(tmp_path, backbone=str(tmp_path / "empty")))
    assert not (tmp_path / "explainer.json").exists()


async def test_it_starts_without_a_broker_says_so_and_stops_on_sigterm(tmp_path, backbone, head, task):
    backbone.model.save_pretrained(tmp_path / "tiny")
    vision = {"backbone": str(tmp_path / "tiny"), "input_size_px": 48, "tasks_dir": tmp_path / "tasks"}
    settings = settings_for(tmp_path, **vision)
    install(task, head, settings, tmp_path / "tasks" / "brain-mr")
    running = asyncio.create_task(app.run(settings))
    try:
        while not (tmp_path / "explainer.json").exists():
            assert not running.done(), running.result()
            await asyncio.sleep(0.05)
        url = json.loads((tmp_path / "explainer.json").read_text())["metrics"]

        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())

        assert "similis_explainer_forward_passes_total" in metrics
        with pytest.raises(urllib.error.HTTPError) as not_ready:
            await asyncio.to_thread(urllib.request.urlopen, url.replace("/metrics", "/readyz"), timeout=10)
        assert json.loads(not_ready.value.read())["failing"] == ["kafka"]
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 20)


def install(task, head, settings, folder: Path) -> None:
    """Put the task into a tasks folder, its head made for the backbone on disk."""
    from dataclasses import fields

    from shared.vision.backbone import backbone_id

    folder.mkdir(parents=True)
    values = {f.name: getattr(head, f.name) for f in fields(head) if f.init}
    LinearHead(**values | {"backbone_id": backbone_id(settings.vision)}).save(folder / "head.safetensors")
    (folder / "task.yaml").write_text(task.definition.model_dump_json())
    (folder / "model-card.json").write_text("{}")
