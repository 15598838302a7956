"""Signing in at the real door, what a role is offered, labels by people; help and touch on a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from light_box_seed import TASK

from services.query.access.api_keys import changing, new_key
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.settings import QuerySection
from tests.browser.conftest import JUDGING, LightBox, Watch, few, light_box
from tests.browser.test_light_box import GLIOMA, open_study, until

pytestmark = pytest.mark.browser

FINDING, ABSTAINED = 0, 5


class Anywhere:
    """A topic that takes everything, so that maps are offered."""

    async def publish(self, topic: str, event: object) -> None:
        """Take it."""


@dataclass
class Door:
    box: LightBox
    reader: str
    operator: str


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A service that asks who is there."""
    folder = tmp_path_factory.mktemp("door")
    keys = {}
    with changing(folder / "keys.json") as records:
        for role in (Role.READER, Role.OPERATOR):
            keys[role], record = new_key(f"room-{role}", role, created_at=datetime.now(UTC), expires_at=None)
            records.append(record)
    query = QuerySection(catalogue_max_age_s=0, decode_workers=0, auth=AuthSection(keys_file=folder / "keys.json"))
    opened = light_box(folder / "archive", few, query=query, publisher=Anywhere(), **JUDGING)
    for box in opened:
        yield Door(box, keys[Role.READER], keys[Role.OPERATOR])


def sign_in(page, key: str) -> None:
    page.get_by_label("API key or token").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()


@pytest.mark.parametrize("page", [(1280, 800), (390, 844)], indirect=True)
def test_a_link_opens_after_signing_in_and_what_was_asked_goes_on(page, door: Door):
    uid = door.box.seed.studies[FINDING].uid
    page.goto(f"{door.box.url}/#/study/{uid}?label=glioma-like")
    page.get_by_label("API key or token").wait_for()
    assert page.locator(".notice").is_visible()
    page.get_by_label("API key or token").fill("similis_wrong")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#sign-in-said').textContent.includes('does not know this key')")
    page.evaluate("window.sameLoad = true")
    sign_in(page, door.reader)
    page.wait_for_selector(".grid [data-rank]")
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    assert page.evaluate("window.sameLoad") is True
    assert "label=glioma-like" in page.url
    assert page.locator("#list li").count() == len(door.box.seed.studies)
    assert "key:room-reader" in page.locator("#who").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_session_that_ended_asks_again_and_the_search_goes_on(page, door: Door):
    page.goto(door.box.url)
    sign_in(page, door.operator)
    open_study(page, door.box, FINDING)
    page.context.clear_cookies()
    page.get_by_role("button", name="This frame").click()
    page.get_by_label("API key or token").wait_for()
    page.keyboard.press("Escape")
    page.locator("#neighbours .state.error").wait_for()
    assert "Sign in first" in page.locator("#neighbours").inner_text()
    page.get_by_role("button", name="Try again").click()
    sign_in(page, door.operator)
    page.wait_for_selector(".grid [data-rank]")
    assert "By frame" in page.locator("#with-note").inner_text()


def test_signing_out_ends_the_session(page, door: Door):
    page.goto(door.box.url)
    sign_in(page, door.reader)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key or token").wait_for()
    assert page.request.get(f"{door.box.url}/v1/info").status == 401


def test_a_reader_is_offered_neither_labels_nor_maps(page, door: Door):
    page.goto(door.box.url)
    sign_in(page, door.reader)
    open_study(page, door.box, FINDING)
    page.wait_for_timeout(200)
    assert page.get_by_role("button", name="Ask for a map").count() == 0
    assert page.get_by_role("button", name="Confirm glioma-like").count() == 0


def test_a_label_is_confirmed_changed_and_withdrawn_under_the_name_that_signed_in(page, door: Door, watch: Watch):
    page.goto(door.box.url)
    sign_in(page, door.operator)
    watch.errors.clear()  # the refusal before the sign-in
    open_study(page, door.box, FINDING)
    labels = page.locator("#labels")
    assert page.get_by_role("button", name="Ask for a map").is_visible()
    labels.locator("summary").click()
    labels.get_by_role("button", name="Confirm glioma-like").click()
    until(page, "document.querySelector('#labels').textContent.includes('Given by key:room-operator')")
    url = f"{door.box.url}/v1/studies/{door.box.seed.studies[FINDING].uid}/labels"
    (kept,) = page.request.get(url).json()["labels"]
    assert (kept["task"], kept["label"], kept["recorded_by"]) == (TASK, "glioma-like", "key:room-operator")
    assert labels.get_by_role("button", name="Confirm glioma-like").count() == 0
    labels.get_by_label("Another label, Brain MR").select_option("normal")
    labels.get_by_role("button", name="Save").click()
    until(page, "document.querySelector('#labels .chip').textContent.includes('normal')")
    # A reader sees it, and cannot change it.
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, door.reader)
    open_study(page, door.box, FINDING)
    until(page, "document.querySelector('#labels .chip')?.textContent.includes('normal')")
    labels.locator("summary").click()
    assert "Given by key:room-operator" in labels.inner_text()
    assert labels.get_by_role("button").count() == 0
    page.get_by_role("button", name="Sign out").click()
    sign_in(page, door.operator)
    open_study(page, door.box, FINDING)
    labels.locator("summary").click()
    labels.get_by_role("button", name="Withdraw").click()
    until(page, "document.querySelector('#labels').textContent.includes('No label by a person yet')")
    assert page.request.get(url).json()["labels"] == []


def test_an_abstained_study_can_be_labelled_and_a_refusal_is_told(page, door: Door):
    page.goto(door.box.url)
    sign_in(page, door.operator)
    open_study(page, door.box, ABSTAINED)
    labels = page.locator("#labels")
    labels.locator("summary").click()
    labels.get_by_label("Another label, Brain MR").select_option("normal")
    said = '{"type": "urn:similis:problem:role-needed", "title": "Role needed", "detail": "No."}'
    page.route("**/labels/*", lambda route: route.fulfill(status=403, content_type="application/json", body=said))
    labels.get_by_role("button", name="Save").click()
    until(page, "document.querySelector('#labels').textContent.includes('Not saved. Not allowed')")
    assert "No label by a person yet" in labels.inner_text()
    page.unroute("**/labels/*")
    labels.get_by_label("Another label, Brain MR").select_option("normal")
    labels.get_by_role("button", name="Save").click()
    until(page, "document.querySelector('#labels .chip')?.textContent.includes('normal')")


@pytest.mark.parametrize("page", [(1280, 800), (390, 844)], indirect=True)
def test_axe_finds_nothing_serious_at_the_door_and_in_labels(page, door: Door):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(view: str) -> None:
        page.wait_for_timeout(200)
        found = axe.run(page).response["violations"]
        assert [fault["id"] for fault in found if fault["impact"] in {"serious", "critical"}] == [], view

    page.goto(door.box.url)
    page.get_by_label("API key or token").wait_for()
    check("sign-in")
    sign_in(page, door.operator)
    open_study(page, door.box, FINDING)
    page.locator("#labels summary").click()
    page.locator("#labels select").wait_for()
    check("labels")


@pytest.mark.parametrize("page", [(390, 844)], indirect=True)
def test_on_a_telephone_help_opens_by_a_button_and_fits(page, box: LightBox):
    page.goto(box.url)
    page.get_by_role("button", name="Help").tap()
    help_ = page.get_by_role("dialog", name="Help")
    place = help_.bounding_box()
    assert place["x"] >= 0
    assert place["x"] + place["width"] <= 390
    assert place["y"] + place["height"] <= 844
    assert "swipe" in help_.inner_text()
    assert help_.evaluate("node => node.scrollWidth <= node.clientWidth")
    help_.get_by_role("button", name="Close").tap()
    assert not help_.is_visible()


@pytest.mark.parametrize("page", [(390, 844)], indirect=True)
def test_a_finger_walks_sideways_through_frames_and_up_through_the_page(page, box: LightBox):
    open_study(page, box, GLIOMA)
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    page.get_by_label("Frame", exact=True).fill("3")
    area = page.locator(".picture").bounding_box()
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    session = page.context.new_cdp_session(page)

    def swipe(*moves: tuple[float, float]) -> None:
        for at, (right, down) in enumerate(moves):
            kind = "touchMove" if at else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x + right, "y": y + down}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe((0, 0), (-15, 0), (-30, 1), (-45, 1))
    until(page, "document.querySelector('.place').textContent.startsWith('4 / 5')")
    swipe((0, 0), (30, 0), (60, 1), (100, 1))
    until(page, "Number(document.querySelector('.place').textContent[0]) < 4")
    before = page.locator(".place").inner_text()
    swipe((0, 0), (0, -60), (0, -120), (0, -180))
    until(page, "scrollY > 50")
    assert page.locator(".place").inner_text() == before
