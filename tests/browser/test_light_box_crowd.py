"""Two people at once, while studies come in as fast as they are stored: no search fails, and both see what is new."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from light_box_seed import LABELS, FakeEncoder, Seed

from services.query.settings import QuerySection
from shared.events import Decision
from shared.vector_index import collection_name
from tests.browser.conftest import LightBox, light_box
from tests.browser.test_light_box import until
from tests.shared.vector_index.conftest import Owner

pytestmark = pytest.mark.browser

BEFORE = 24
ROUNDS = 2


def some(seed: Seed) -> None:
    for number in range(1, BEFORE + 1):
        store(seed, number)


def store(seed: Seed, number: int) -> None:
    label = LABELS[number % len(LABELS)]
    decision = Decision.NO_FINDING if label == "normal" else Decision.FINDING
    seed.study(number, label=label, decision=decision, slices=3, sex="FM"[number % 2])


@pytest.fixture
def engine() -> Iterator[Owner]:
    folder = Path(tempfile.mkdtemp(prefix="similis-"))  # tmp_path is too long for a Unix socket
    owner = Owner(folder)
    owner.start()
    yield owner
    assert owner.stop() == 0
    shutil.rmtree(folder)


class Writer(threading.Thread):
    """Stores studies with their points at full speed."""

    def __init__(self, seed: Seed) -> None:
        super().__init__(daemon=True)
        self.seed = seed
        self.stop = threading.Event()
        self.error: Exception | None = None
        self.stored = 0

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.stored += 1
                store(self.seed, BEFORE + self.stored)
        except Exception as error:  # told by the test
            self.error = error


class Person:
    """One browser context, whose failed requests are noted."""

    def __init__(self, browser, box: LightBox) -> None:
        self.box = box
        self.failed: list[str] = []
        self.searches = 0
        self.page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("response", self._note)
        self.page.on("pageerror", lambda error: self.failed.append(str(error)))
        self.page.goto(box.url)
        self.page.wait_for_selector("#list li")

    def _note(self, response) -> None:
        self.searches += "/v1/search" in response.url
        if response.status >= 400:
            self.failed.append(f"{response.status} {response.url}")

    def search(self, at: int, *clicks: str) -> None:
        uid = self.box.seed.studies[at].uid
        self.page.goto(f"{self.box.url}/#/study/{uid}")
        until(self.page, f"document.querySelector('h1').textContent.endsWith(' {uid}')")
        self.page.wait_for_selector(".grid [data-rank]")
        for name in clicks:
            with self.page.expect_response("**/v1/search"):
                self.page.get_by_role("button", name=name).click()
            self.page.wait_for_selector(".grid [data-rank]")
        assert self.page.locator(".state.error").count() == 0


@pytest.fixture
def busy_box(engine: Owner, tmp_path: Path) -> Iterator[LightBox]:
    """A service on the embedded engine, which a process of its own serves."""
    encoder = FakeEncoder()
    with contextlib.closing(engine.index(collection_name(encoder.id), dim=encoder.dim, timeout_s=60)) as index:
        yield from light_box(tmp_path, some, index=index, query=QuerySection(event_poll_s=0.5, decode_workers=0))


def test_two_people_search_and_page_while_studies_come_in(browser, busy_box: LightBox):
    people = [Person(browser, busy_box), Person(browser, busy_box)]
    writer = Writer(busy_box.seed)
    writer.start()
    try:
        for turn in range(ROUNDS):
            people[0].search(turn, "More similar cases", "This frame")
            people[1].search(BEFORE - 1 - turn, "This frame", "Whole study")
    finally:
        writer.stop.set()
        writer.join(60)
    assert writer.error is None
    assert writer.stored > 2 * ROUNDS
    newest, stored = busy_box.seed.studies[-1].uid, len(busy_box.seed.studies)
    for person in people:
        until(person.page, f"document.querySelector('#count').textContent.startsWith('{stored} studies')")
        assert person.page.locator(f'#list a[data-uid="{newest}"]').is_visible()
        assert person.failed == []
        assert person.searches >= 3 * ROUNDS
        person.page.context.close()
