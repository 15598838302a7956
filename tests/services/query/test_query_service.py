"""The service as a whole: start, readiness, endpoints, stop; and the real backbone behind an upload."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from light_box_seed import FakeEncoder, Seed

from services.query import app as module
from services.query.app import build_parts, run
from services.query.find_similar import FindSimilar
from services.query.settings import QuerySection, QuerySettings
from services.query.uploads import read_upload
from services.query.work import Workers
from shared.errors import IndexUnavailableError
from shared.health import bind, url_of
from shared.pixels import PixelLimits
from shared.pixels.frame_reader import FrameReader
from shared.settings import ArchiveSettings, VisionSettings
from shared.vector_index.memory import MemoryAliases, MemoryIndex


async def test_it_serves_at_once_is_ready_when_loaded_and_stops_on_sigterm(tmp_path: Path, monkeypatch):
    encoder, loaded, tries = FakeEncoder(), asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def load(_settings: QuerySettings) -> tuple[FakeEncoder, tuple, dict]:
        asyncio.run_coroutine_threadsafe(loaded.wait(), loop).result(20)
        return encoder, (), {}

    def open_index(*_: object, **__: object) -> MemoryIndex:
        tries.append(1)
        if len(tries) < 3:
            raise IndexUnavailableError("not up yet")
        return MemoryIndex(encoder.dim)

    monkeypatch.setattr(module, "_load_vision", load)
    monkeypatch.setattr(module, "open_index", open_index)
    monkeypatch.setattr(module, "open_aliases", lambda _: MemoryAliases(()))
    bound = []
    monkeypatch.setattr(module, "bind", lambda host, port: bound.append(bind(host, port)) or bound[0])
    endpoint_file = tmp_path / "run" / "query.json"
    settings = QuerySettings(
        query=QuerySection(port=0, start_pause_s=0.01),
        archive=ArchiveSettings(url=str(tmp_path / "archive")),
        endpoint_file=endpoint_file,
    )
    service = asyncio.create_task(run(settings))
    async with httpx.AsyncClient(timeout=10) as client:
        while not bound:
            await asyncio.sleep(0.01)
        url = url_of(bound[0])
        await until_answers(client, f"{url}/livez", 200)
        assert (await client.get(f"{url}/readyz")).status_code == 503
        assert (await client.get(f"{url}/v1/info")).status_code == 503
        assert not endpoint_file.exists()
        loaded.set()
        await until_answers(client, f"{url}/readyz", 200)
        endpoints = json.loads(endpoint_file.read_text())
        assert endpoints["http"] == url
        assert endpoints["metrics"] == f"{url}/metrics"
        assert (await client.get(endpoints["metrics"])).status_code == 200
        assert (await client.get(f"{url}/v1/info")).json()["backbone_id"] == encoder.id
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(service, 20)


async def until_answers(client: httpx.AsyncClient, url: str, status: int) -> None:
    for _ in range(1000):
        try:
            if (await client.get(url)).status_code == status:
                return
        except httpx.ConnectError:
            pass
        await asyncio.sleep(0.01)
    raise AssertionError(f"{url} never answered {status}")


@pytest.mark.parametrize(
    "setting",
    [{"SIMILIS_QUERY__PORT": "many"}, {"SIMILIS_ARCHIVE__URL": "ftp://bucket/x"}, {"SIMILIS_QUERY__PROT": "1"}],
)
def test_a_wrong_setting_ends_it_with_a_message(setting: dict[str, str], tmp_path: Path):
    code = "from services.query.app import main; main()"
    environment = {**os.environ, **setting}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "similis query:" in done.stderr


async def test_a_request_that_finds_no_free_worker_is_told_to_come_back():
    workers = Workers(1, queue_timeout_s=0.05, retry_after_s=7)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    busy = asyncio.create_task(workers.run(lambda: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)))
    await asyncio.sleep(0.02)
    with pytest.raises(Exception, match="Too many requests") as refused:
        await workers.run(lambda: None)
    assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "7"})
    gate.set()
    await busy
    assert await workers.run(lambda: 3) == 3


def test_an_upload_goes_through_the_real_backbone(empty: Seed):
    from shared.vision.backbone import load_backbone

    backbone = load_backbone(VisionSettings(threads=1))
    seed = Seed(empty.archive, MemoryIndex(backbone.dim), backbone, size=96)
    studies = [seed.study(number, slices=1) for number in (1, 2, 3)]
    parts = build_parts(QuerySettings(), archive=seed.archive, index=seed.index, encoder=backbone)
    step = parts.find_similar
    assert isinstance(step, FindSimilar)
    reader, limits = FrameReader.in_process(PixelLimits()), PixelLimits()
    frames = read_upload(studies[1].files[0], reader, frame_number=None, max_frames=8, limits=limits)
    start = step.from_frames(frames, parts.encoder)
    best = seed.index.search_studies(start.vector, limit=3)
    assert best[0].payload.study_instance_uid == studies[1].uid
    assert best[0].score == pytest.approx(1.0, abs=1e-4)
    assert best[1].score < 0.9999
