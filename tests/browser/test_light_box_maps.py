"""A saliency map is asked for from the page: every state of a request, and the map when it comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from light_box_seed import TASK

from services.query.settings import QuerySection
from shared.archive import explanation_key, explanation_request_key
from shared.errors import BrokerUnavailableError
from shared.events import Event, ExplanationRequested, Reliability, StudyExplained
from shared.explanation_failure import ExplanationFailure
from tests.browser.conftest import JUDGING, LightBox, Watch, few, light_box
from tests.browser.test_light_box import open_study, until

pytestmark = pytest.mark.browser

SAID = "(document.querySelector('.asked')?.textContent ?? '')"


class Topic:
    """Takes the events that go out; the test plays the explainer that reads them."""

    def __init__(self) -> None:
        self.events: list[ExplanationRequested] = []
        self.away = False

    async def publish(self, topic: str, event: Event) -> None:
        if self.away:
            raise BrokerUnavailableError("does not answer")
        assert isinstance(event, ExplanationRequested)
        self.events.append(event)


@pytest.fixture(scope="module")
def topic() -> Topic:
    return Topic()


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, topic: Topic) -> Iterator[LightBox]:
    """A service with a task and somewhere to send requests for maps to."""
    query = QuerySection(catalogue_max_age_s=0, event_poll_s=0.1, decode_workers=0)
    yield from light_box(tmp_path_factory.mktemp("asking-box"), few, query=query, publisher=topic, **JUDGING)


def explain(box: LightBox, asked: ExplanationRequested) -> None:
    """As the explainer leaves it: the policy's map of the study, on the frame and for the class that was asked for."""
    uid, revision, task = asked.study_instance_uid, asked.revision, asked.task
    own = StudyExplained.model_validate_json(
        box.seed.archive.get(explanation_key(uid, revision, task, "explained.json"))
    )
    (old,) = own.maps
    frame = asked.frames[0]
    stem = f"{frame.sop_instance_uid}-{frame.frame_number}-{asked.event_id}"
    keys = {}
    for name in ("map_key", "overlay_key", "record_key"):
        keys[name] = explanation_key(uid, revision, task, stem + Path(getattr(old, name)).suffix)
        box.seed.archive.put(keys[name], box.seed.archive.get(getattr(old, name)))
    made = old.model_copy(update={**keys, "sop_instance_uid": frame.sop_instance_uid, "target_label": asked.label})
    told = own.model_copy(update={"maps": (made,), "label": asked.label, "request_id": asked.event_id})
    key = explanation_request_key(uid, revision, task, asked.event_id, "explained")
    box.seed.archive.put(key, told.model_dump_json().encode())


def ask(page, label: str) -> None:
    page.get_by_role("button", name="Ask for a map").click()
    page.get_by_label("What in this frame speaks for").select_option(label=label)
    page.get_by_role("button", name="Ask", exact=True).click()


@pytest.mark.parametrize("page", [(1280, 800), (390, 844)], indirect=True)
def test_a_map_is_asked_for_waited_for_and_laid_on(page, asking: LightBox, topic: Topic, watch: Watch):
    at = 0 if page.viewport_size["width"] > 500 else 1
    open_study(page, asking, at)
    page.get_by_label("Frame", exact=True).fill("2")
    ask(page, "normal")
    until(page, f"{SAID}.includes('map for “normal” on frame 2 is asked for and waits')")
    sent = topic.events[-1]
    assert (sent.label, len(sent.frames)) == ("normal", 1)
    assert not page.locator("img.layer").is_visible()
    explain(asking, sent)
    until(page, f"{SAID}.includes('is there')")
    until(page, f"document.querySelector('img.layer').src.includes('{sent.event_id}')")
    until(page, "document.querySelector('img.layer').naturalWidth > 0")
    assert page.locator("img.layer").is_visible()
    assert "ON REQUEST" in page.locator(".map-words").inner_text()
    # Nobody is asked to read the study anew for a map.
    assert page.locator("#changed").count() == 0
    page.get_by_label("Frame", exact=True).fill("4")
    page.get_by_role("button", name="Show it").click()
    assert page.locator(".place").inner_text().startswith("2 / 5")
    assert (watch.errors, watch.foreign) == ([], [])


def test_news_of_the_study_brings_the_map_at_once(page, asking: LightBox, topic: Topic):
    """The stream of events tells, long before the page would ask again."""
    open_study(page, asking, 0)
    page.wait_for_timeout(500)  # the stream is open
    page.get_by_label("Frame", exact=True).fill("3")
    page.evaluate(
        "window.realTimeout = setTimeout; window.setTimeout = (act, ms) => realTimeout(act, ms > 1000 ? 1e8 : ms)"
    )
    ask(page, "metastasis-like")
    until(page, f"{SAID}.includes('waits')")
    explain(asking, topic.events[-1])
    until(page, f"{SAID}.includes('map for “metastasis-like” on frame 3 is there')")


def test_a_failure_is_told_with_its_reason_and_asked_again(page, asking: LightBox, topic: Topic):
    open_study(page, asking, 2)
    ask(page, "glioma-like (predicted)")
    until(page, f"{SAID}.includes('waits')")
    sent = topic.events[-1]
    failure = ExplanationFailure(request_id=sent.event_id, asked_at=sent.occurred_at, reason="no map varies")
    key = explanation_request_key(sent.study_instance_uid, 1, TASK, sent.event_id, "failed")
    asking.seed.archive.put(key, failure.model_dump_json().encode())
    until(page, f"{SAID}.includes('could be made: no map varies')")
    page.get_by_role("button", name="Ask again").click()
    until(page, f"{SAID}.includes('waits')")
    assert topic.events[-1].event_id == sent.event_id


def test_an_explainer_that_is_away_is_told_and_leaving_the_study_forgets_nothing(page, asking: LightBox, topic: Topic):
    open_study(page, asking, 3)
    topic.away = True
    try:
        page.keyboard.press("a")
        assert page.evaluate("document.activeElement.id") == "map-class"
        page.get_by_role("button", name="Ask", exact=True).click()
        until(page, f"{SAID}.includes('The explainer cannot be asked')")
    finally:
        topic.away = False
    open_study(page, asking, 4)
    assert page.locator(".asked").count() == 0
    open_study(page, asking, 3)
    page.get_by_role("button", name="Ask again").click()
    until(page, f"{SAID}.includes('waits')")


def test_a_refusal_says_that_the_service_is_read_only(page, asking: LightBox):
    open_study(page, asking, 4)
    said = '{"type": "urn:similis:problem:read-only", "title": "Read only", "detail": "No."}'
    page.route(
        f"{asking.url}/v1/explanations",
        lambda route: route.fulfill(status=403, content_type="application/problem+json", body=said),
    )
    ask(page, "normal")
    until(page, f"{SAID}.includes('Read-only: This service is set up to take neither labels nor requests for maps')")
    assert page.get_by_role("button", name="Ask again").count() == 0


def test_an_abstained_study_can_be_explained_and_axe_finds_nothing_serious(page, asking: LightBox):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    open_study(page, asking, 5)
    ask(page, "normal")
    until(page, f"{SAID}.includes('waits')")
    page.keyboard.press("a")
    found = axe.run(page).response["violations"]
    assert [fault["id"] for fault in found if fault["impact"] in {"serious", "critical"}] == []


def test_a_map_that_is_not_reliable_says_so_and_shows_weakly(page, asking: LightBox):
    key = explanation_key(asking.seed.studies[1].uid, 1, TASK, "explained.json")
    told = StudyExplained.model_validate_json(asking.seed.archive.get(key))
    weak = told.maps[0].model_copy(
        update={"reliability": Reliability.NOT_RELIABLE, "reliability_reason": "as random weights"}
    )
    asking.seed.archive.put(key, told.model_copy(update={"maps": (weak,)}).model_dump_json().encode())
    open_study(page, asking, 1)
    assert page.locator(".map-words strong").inner_text() == "NOT RELIABLE, drawn pale: as random weights."
    assert float(page.locator("img.layer").evaluate("node => getComputedStyle(node).opacity")) == pytest.approx(0.3)


def test_no_map_is_offered_without_a_broker(page, box: LightBox):
    open_study(page, box, 4)
    assert page.request.get(f"{box.url}/v1/info").json()["takes_map_requests"] is False
    page.keyboard.press("a")
    assert page.get_by_role("button", name="Ask for a map").count() == 0
