from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

# The seeded archive and the fake encoder are those of the query service's own tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services" / "query"))

from light_box_seed import HEAD, LABELS, TASK, FakeEncoder, Seed, fill

from services.query.app import build_parts
from services.query.http import build_app
from services.query.schema import TaskInfo
from services.query.settings import QuerySection, QuerySettings
from shared.archive import LocalArchive
from shared.errors import IndexUnavailableError
from shared.events import Decision
from shared.health import Health, bind, url_of
from shared.vector_index.memory import MemoryIndex
from shared.vector_index.port import Filter, Hit
from shared.vision.tasks import BUILT_IN, load_definition

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# What a service with one installed task is built with.
INFO = TaskInfo(name=TASK, title="Brain MR", labels=LABELS, findings=LABELS[1:], abstain_below=0.5, head_id=HEAD)
JUDGING = {"tasks": (INFO,), "definitions": [load_definition(BUILT_IN / TASK)]}


class FlakyIndex(MemoryIndex):
    """An index that can be taken away."""

    away = False

    def search_studies(self, vector, *, limit: int, where: Filter = Filter()) -> list[Hit]:
        if self.away:
            raise IndexUnavailableError("the engine's socket is gone")
        return super().search_studies(vector, limit=limit, where=where)


@dataclass
class LightBox:
    url: str
    seed: Seed
    index: FlakyIndex


@dataclass
class Watch:
    """What went wrong in a page: console errors, exceptions, requests that left the service."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("SIMILIS_REQUIRE_BROWSER") == "1":
            pytest.fail("SIMILIS_REQUIRE_BROWSER=1, but there is no Chromium")
        pytest.skip("no Chromium on this machine")
    return found


# Not for the session: Playwright keeps an event loop running in this thread, where later tests want their own.
@pytest.fixture(scope="module")
def browser(chromium):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield launched
        launched.close()


def few(seed: Seed) -> None:
    """Five findings, the first two with a map, and one study that the task abstained on."""
    for number in range(1, 6):
        seed.study(number, label="glioma-like", decision=Decision.FINDING, explained=number < 3)
    seed.study(6, label=None, decision=Decision.ABSTAINED)


def light_box(
    folder: Path, fill_it: Callable[[Seed], None], *, index: Any = None, query: QuerySection | None = None, **parts: Any
) -> Iterator[LightBox]:
    """The real app under uvicorn on a free port. `parts`: more of what `build_parts` takes."""
    encoder = FakeEncoder()
    index = index or FlakyIndex(encoder.dim)
    seed = Seed(LocalArchive(folder), index, encoder, size=192)
    fill_it(seed)
    settings = QuerySettings(query=query or QuerySection(catalogue_max_age_s=0, decode_workers=0))
    health = Health()
    app = build_app(settings.query, health)
    app.state.parts = build_parts(settings, archive=seed.archive, index=index, encoder=encoder, **parts)
    health.ready = True
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield LightBox(url_of(bound), seed, index)
    server.should_exit = True
    thread.join(timeout=10)
    bound.close()


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightBox]:
    yield from light_box(tmp_path_factory.mktemp("light-box"), fill)


@pytest.fixture(scope="session")
def empty_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightBox]:
    yield from light_box(tmp_path_factory.mktemp("empty-box"), lambda _: None)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page(browser, watch: Watch, request):
    """A page whose console and traffic are watched; parametrize indirectly with (width, height)."""
    width, height = getattr(request, "param", (1280, 800))
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=width < 500)
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    opened.on("console", lambda said: watch.errors.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: watch.errors.append(str(error)))
    opened.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(("http://127.0.0.1:", "data:", "blob:")) else watch.foreign.append(asked.url)
        ),
    )
    yield opened
    context.close()
