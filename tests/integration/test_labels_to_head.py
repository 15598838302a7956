"""From phantoms sent to a listener, over labels given through the API, to a trained candidate. Phantom results."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import typer
from pydicom import FileDataset, dcmread
from typer.testing import CliRunner

from services.listener.ports import MemoryPublisher
from services.query.app import build_parts, label_definitions
from services.query.http import build_app
from services.query.settings import QuerySection, QuerySettings
from services.training.command_line import train_command
from services.training.phantoms import recipe
from shared.archive import Archive
from shared.health import Health
from shared.vector_index.memory import MemoryIndex

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services" / "listener"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services" / "query"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared" / "vision"))

from light_box_seed import FakeEncoder
from listener_harness import Running, associate, make_settings
from small_models import save_small

TASK = "blood-smear"
STUDIES = 16  # eight of each class: four to train on, two to calibrate on, two to test on

app = typer.Typer()
app.command("train")(train_command)

Phantom = tuple[str, list[FileDataset]]  # its true class, its images


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """Studies of two images, each of a virtual patient of its own."""
    made = recipe(TASK)
    studies = [made.study(seed, made.labels[seed % len(made.labels)], contrast=8.0) for seed in range(STUDIES)]
    return [(study.label, [dcmread(io.BytesIO(data)) for data in study.objects]) for study in studies]


@pytest.fixture(scope="module")
def received(phantoms: list[Phantom], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A listener that was sent every phantom and has archived them."""
    running = Running(make_settings(tmp_path_factory.mktemp("listener")), MemoryPublisher()).start()
    try:
        first = phantoms[0][1][0]
        assoc = associate(running.host, running.port, (first.SOPClassUID, first.file_meta.TransferSyntaxUID))
        for _, images in phantoms:
            for image in images:
                assert assoc.send_c_store(image).Status == 0
        assoc.release()
        for _, images in phantoms:
            running.manifest(images[0].StudyInstanceUID, timeout_s=30)
        yield running
    finally:
        running.stop()


def api(archive: Archive) -> httpx.AsyncClient:
    encoder, settings = FakeEncoder(), QuerySettings(query=QuerySection(decode_workers=0))
    served = build_app(settings.query, Health())
    served.state.parts = build_parts(
        settings,
        archive=archive,
        index=MemoryIndex(encoder.dim),
        encoder=encoder,
        definitions=label_definitions(settings).values(),
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=served), base_url="http://localhost")


@pytest.mark.slow
async def test_phantoms_labelled_through_the_api_train_a_candidate(
    received: Running, phantoms: list[Phantom], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        "VISION__BACKBONE": save_small(tmp_path / "small"),
        "VISION__INPUT_SIZE_PX": 28,
        "VISION__DEVICE": "cpu",
        "VISION__PRECISION": "float32",
        "VISION__CACHE_DIR": tmp_path / "cache",
        "ARCHIVE__URL": received.archive.root,
    }.items():
        monkeypatch.setenv(f"SIMILIS_{name}", str(value))
    async with api(received.archive) as client:
        for at, (label, images) in enumerate(phantoms):
            url = f"/v1/studies/{images[0].StudyInstanceUID}/labels/{TASK}"
            other = next(name for name in recipe(TASK).labels if name != label)
            # A first, wrong label is superseded or withdrawn: training must not see it.
            assert (await client.put(url, json={"label": other, "comment": "first look"})).status_code == 201
            if at % 4 < 2:
                assert (await client.put(url, json={"label": label})).status_code == 200
                continue
            assert (await client.delete(url)).status_code == 200
            for image in images:
                body = {"label": label, "sop_instance_uid": image.SOPInstanceUID}
                assert (await client.put(url, json=body)).status_code == 201
    command = [TASK, "--archive", "--no-shortcuts", "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, command, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    card = json.loads((tmp_path / "out" / "model-card.json").read_text())
    assert card["data"]["description"] == "archived studies, labels given through the API"
    assert card["rebuild"] == f"similis train {TASK} --archive --seed 0 --accuracy 0.9 --no-shortcuts"
    counted: Counter[str] = Counter()
    for split in card["data"]["splits"].values():
        assert split["patients"] == split["cases"]
        counted.update(split["labels"])
    assert counted == Counter(label for label, _ in phantoms)
    assert (tmp_path / "out" / "head.safetensors").stat().st_size > 0
    written = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").glob("*.*"))
    assert "first look" not in written
