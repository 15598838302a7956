"""The backbone changed under load: real engine process, models, query service and command; only Kafka is left out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from services.embedder.app import build_second, build_step
from services.embedder.handlers import OnStudyReceived, Progress
from services.embedder.indexes import close_collections
from services.embedder.reindex_commands import reindex_app
from services.embedder.settings import EmbedderSettings
from shared.archive import LocalArchive
from shared.health import Health
from shared.ids import point_id
from shared.vector_index import collection_name, open_index
from shared.vector_index.aliases import LIVE_ALIAS, open_aliases
from shared.vector_index.port import AnyOf, Filter
from shared.vision.weights import backbone_id
from tests.services.embedder.embedder_studies import STUDY, archive_study, made_up_task, slices
from tests.shared.vector_index.conftest import Owner, owner
from tests.shared.vision.small_models import save_small

__all__ = ["owner"]  # a fixture

BEFORE, MEANWHILE, FRAMES = 8, 4, 3


def study(number: int) -> str:
    return f"{STUDY}.{number}"


@dataclass
class Place:
    """Settings of everything, an archive, and studies for it."""

    environment: dict[str, str]
    folder: Path

    @property
    def archive(self) -> LocalArchive:
        return LocalArchive(self.folder / "archive")

    def receive(self, number: int):
        spec = slices(FRAMES, prefix=f"{study(number)}.1", seed=10 * number)
        return archive_study(self.archive, spec, study=study(number), pseudonyms=(f"p-{number}",))

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "services.cli", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def place(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    owner.start()
    environment = {
        "SIMILIS_QDRANT__SOCKET": str(owner.socket),
        "SIMILIS_ARCHIVE__URL": str(tmp_path / "archive"),
        "SIMILIS_VISION__BACKBONE": str(save_small(tmp_path / "first")),
        "SIMILIS_NEXT__BACKBONE": str(save_small(tmp_path / "second", hidden_size=48)),
        "SIMILIS_VISION__INPUT_SIZE_PX": "28",
        "SIMILIS_VISION__DEVICE": "cpu",
        "SIMILIS_VISION__PRECISION": "float32",
        "SIMILIS_EMBEDDER__DECODE_WORKERS": "0",
        "SIMILIS_QUERY__PORT": "0",
        "SIMILIS_QUERY__LIVE_POLL_S": "0.1",
        "SIMILIS_QUERY__RATE_LIMIT__SEARCHES_PER_MINUTE": "0",
        "SIMILIS_QUERY__RATE_LIMIT__UPLOADS_PER_MINUTE": "0",
        "SIMILIS_ENDPOINT_FILE": str(tmp_path / "query.json"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "archive").mkdir()
    return Place(environment, tmp_path)


@dataclass
class Client:
    """Searches in a loop, by what is indexed and by a file."""

    url: str
    upload: bytes
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[httpx.Response] = field(default_factory=list)

    def __call__(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.stop.is_set():
                self.answers.append(client.post("/v1/search", json={"study_instance_uid": study(1), "limit": 3}))
                self.answers.append(client.post("/v1/search/upload", files={"file": ("a.dcm", self.upload)}))
                time.sleep(0.05)  # the others need the processor, too

    def backbones(self) -> list[str]:
        return [answer.json().get("backbone_id", answer.text) for answer in list(self.answers)]


class NoPublisher:
    async def publish(self, topic: str, event: object) -> None:
        """Nobody listens."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def wait_for(what: Callable[[], object], timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_query(place: Place, stack: ExitStack) -> str:
    service = place.command("query")
    stack.callback(service.communicate)
    stack.callback(service.send_signal, signal.SIGTERM)
    wait_for((place.folder / "query.json").exists)
    url: str = json.loads((place.folder / "query.json").read_text())["http"]
    return url


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_search_fails_while_every_study_is_indexed_anew_and_searches_change(place: Place, stack: ExitStack) -> None:
    settings = EmbedderSettings()
    old, new = backbone_id(settings.vision), backbone_id(settings.next.vision(settings.vision))
    aliases = stack.enter_context(closing(open_aliases(settings.qdrant)))
    frames = stack.enter_context(closing(open_index(settings.qdrant, collection=collection_name(new), dim=48)))

    progress = Progress(Health())
    embed = build_step(settings, place.archive, progress)
    stack.callback(close_collections, embed.index, embed.derived)
    stack.callback(embed.close)
    embed = replace(embed, tasks=(made_up_task(old, embed.encoder.dim),))
    for number in range(BEFORE):
        embed(place.receive(number))
    client = Client(start_query(place, stack), next(iter(place.archive.root.rglob("*.dcm"))).read_bytes())
    searching = threading.Thread(target=client)
    searching.start()
    stack.callback(searching.join)
    stack.callback(client.stop.set)

    # New studies are written by both from now on; the command is killed amid the old ones.
    second = build_second(settings, embed, progress)
    assert second is not None
    stack.callback(close_collections, second.index, second.derived)
    stack.callback(second.close)
    handle = OnStudyReceived(embed, NoPublisher(), second.settle)
    killed = place.command("reindex", "--pause-s", "0.3")
    wait_for(lambda: frames.count() >= 2 * FRAMES)
    killed.kill()
    killed.communicate()
    assert frames.count() < BEFORE * FRAMES

    runner = CliRunner()
    refused = runner.invoke(reindex_app, ["switch"])
    assert refused.exit_code == 1
    assert aliases.get(LIVE_ALIAS) is None

    again = place.command("reindex", "--switch", "--pause-s", "0.1")
    for number in range(BEFORE, BEFORE + MEANWHILE):
        asyncio.run(handle(place.receive(number)))
    output = again.communicate(timeout=240)[0]
    assert again.returncode == 0, output
    assert "0 missing" in output
    assert aliases.get(LIVE_ALIAS) == collection_name(new)
    wait_for(lambda: client.backbones()[-2:] == [new, new])
    assert frames.count() == (BEFORE + MEANWHILE) * FRAMES

    # What is found is what the new collection says, new studies among it.
    sop = f"{study(BEFORE)}.1.1"
    request = {"sop_instance_uid": sop, "frame_number": 1, "limit": 5}
    answer = httpx.post(f"{client.url}/v1/search", json=request).json()
    (point,) = frames.retrieve([point_id(new, sop, 1)])
    others = Filter(must_not=(AnyOf("study_instance_uid", (study(BEFORE),)),))
    expected = frames.search_studies(point.vector, limit=5, where=others)
    assert [one["study_instance_uid"] for one in answer["results"]] == [
        hit.payload.study_instance_uid for hit in expected
    ]
    assert {one["label"] for one in answer["results"]} == {"lesion"}

    # A missing study: no switch is possible, also not back.
    missing = Filter(must=(AnyOf("study_instance_uid", (study(2),)),))
    embed.index.delete(missing)
    first = settings.vision.backbone
    refused = runner.invoke(reindex_app, ["switch", "--to", first])
    assert (refused.exit_code, study(2) in refused.output) == (1, True)
    assert aliases.get(LIVE_ALIAS) == collection_name(new)
    embed.settle(study(2))
    assert runner.invoke(reindex_app, ["switch", "--to", first]).exit_code == 0
    wait_for(lambda: client.backbones()[-2:] == [old, old])

    client.stop.set()
    searching.join()
    assert {answer.status_code for answer in client.answers} == {200}
    assert all(answer.json()["results"] for answer in client.answers)
    seen = client.backbones()
    changes = [(one, other) for one, other in pairwise(seen) if one != other]
    assert changes == [(old, new), (new, old)]


@pytest.mark.slow
def test_what_is_searched_or_still_written_is_not_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, runner = EmbedderSettings(), CliRunner()
    old, new = backbone_id(settings.vision), backbone_id(settings.next.vision(settings.vision))
    embed = build_step(settings, place.archive, Progress(Health()))
    second = build_second(settings, embed, Progress(Health()))
    assert second is not None
    embed(place.receive(1))
    second.settle(study(1))
    for step in (second, embed):
        step.close()
        close_collections(step.index, step.derived)
    first, next_ = settings.vision.backbone, settings.next.backbone
    assert first is not None
    assert next_ is not None
    for name in (first, next_):
        assert runner.invoke(reindex_app, ["drop", "--backbone", name, "--yes"]).exit_code == 1
    assert runner.invoke(reindex_app, ["switch"]).exit_code == 0
    # The new one judges from now on, and searches are by it.
    monkeypatch.setenv("SIMILIS_VISION__BACKBONE", next_)
    monkeypatch.delenv("SIMILIS_NEXT__BACKBONE")
    assert runner.invoke(reindex_app, ["drop", "--backbone", first, "--yes"]).exit_code == 0
    with closing(open_aliases(settings.qdrant)) as aliases:
        left = aliases.collections()
    assert collection_name(new) in left
    assert not [name for name in left if old.split("@")[1][:12] in name]
    status = runner.invoke(reindex_app, ["status"]).output
    assert f"live  {collection_name(new)}" in status
