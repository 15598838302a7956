"""Comparing, choosing, framing, signing in and validating, in a real browser; and no serious accessibility fault.

Endpoints that the seeded service cannot answer for want of a model are answered by the test, in the contract's shape.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import services.query
from tests.browser.conftest import LightBox, Watch
from tests.browser.test_light_box import ABSTAINED, GLIOMA, open_study, until

pytestmark = pytest.mark.browser

STATIC_BYTES_MAX = 300_000
SPACES = [
    {"name": "visual", "title": "Looks alike", "description": "The same anatomy often counts more than the lesion."},
    {"name": "brain-mr", "title": "Brain MR", "description": "What the task learned to tell apart counts most."},
]
BOX = {"left": 0.5, "top": 0.25, "width": 0.25, "height": 0.25}
REPORT = {
    "name": "brain-mr",
    "title": "Brain MR, phantom classes",
    "notice": "Phantom results. Research use only.",
    "source": "phantom recipe brain-mr 1",
    "confusion": {"labels": ["normal", "glioma-like"], "counts": [[22, 2], [3, 21]]},
    "roc": [{"label": "glioma-like", "auroc": 0.94, "points": [[0, 0], [0.1, 0.8], [0.4, 0.95], [1, 1]]}],
    "calibration": [{"confidence": 0.6, "accuracy": 0.55, "count": 20, "low": 0.4, "high": 0.7}],
    "retrieval": {"spaces": [{"space": "visual", "P@1": {"value": 0.4, "low": 0.3, "high": 0.5}}]},
}


def answer(page, path: str, said, *, status: int = 200, asked: list | None = None) -> None:
    """Answer requests for `path`, a glob, as the contract says; keeps their bodies in `asked`."""

    def fulfil(route):
        if asked is not None:
            asked.append(route.request.post_data_json)
        route.fulfill(status=status, content_type="application/json", body=json.dumps(said))

    page.route(path, fulfil)


def describe(page, box: LightBox, *paths: str) -> None:
    """The service's description with `paths` beside its own."""
    answer(page, f"{box.url}/openapi.json", {"paths": {path: {} for path in paths}})


def with_spaces(page, box: LightBox) -> None:
    info = page.request.get(f"{box.url}/v1/info").json()
    answer(page, f"{box.url}/v1/info", {**info, "spaces": SPACES, "region_search": True})


def searched_by_contract(page, box: LightBox) -> list:
    """Searches answered in the new shape by the real service's own hits."""
    asked: list = []
    hits = page.request.post(
        f"{box.url}/v1/search", data={"study_instance_uid": box.seed.studies[GLIOMA].uid, "limit": 10}
    ).json()
    hits["vote"]["calibration"] = {"probability": 0.84, "low": 0.71, "high": 0.92, "source": "96 phantom studies"}
    hits["results"] = [{**hit, "region": BOX} for hit in hits["results"][:4]]

    def fulfil(route):
        body = route.request.post_data_json
        asked.append(body)
        shift = 4 if body.get("cursor") else 0
        page_of = [{**hit, "rank": hit["rank"] + shift} for hit in hits["results"]]
        said = {**hits, "results": page_of, "next_cursor": None if shift else "more"}
        route.fulfill(status=200, content_type="application/json", body=json.dumps(said))

    page.route(f"{box.url}/v1/search", fulfil)
    return asked


def test_a_similar_case_stands_beside_the_query_and_scrolls_with_it(page, box: LightBox, watch: Watch):
    open_study(page, box, GLIOMA)
    page.keyboard.press("2")
    page.wait_for_selector(".stage.comparing")
    other = page.locator(".pane").nth(1).locator("img.frame")
    assert "frame 3 of 5" in other.get_attribute("alt")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelectorAll('.pane img.frame')[1].alt.includes('frame 4 of 5')")
    page.keyboard.press("l")
    page.keyboard.press("ArrowRight")
    assert "frame 4 of 5" in other.get_attribute("alt")
    assert "frame=" in page.url
    assert "with=" in page.url
    linked = page.url
    page.go_back()
    until(page, "!document.querySelector('.stage.comparing')")
    page.goto("about:blank")
    page.goto(linked)
    page.wait_for_selector(".stage.comparing")
    assert page.locator(".place").inner_text().startswith("5 / 5")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('.stage.comparing')")
    assert (watch.errors, watch.foreign) == ([], [])


def test_why_draws_what_matched_on_both_images(page, box: LightBox):
    describe(page, box, "/v1/matches")
    asked: list = []
    match = {"query": BOX, "neighbour": BOX, "score": 0.91}
    answer(page, f"{box.url}/v1/matches", {"matches": [match], "method": "patch tokens"}, asked=asked)
    open_study(page, box, GLIOMA)
    page.locator("[data-rank='1']").click()
    until(page, "document.querySelectorAll('.pane .boxes .box').length === 2")
    assert set(asked[0]) == {"query", "neighbour"}
    assert "Both are predicted “glioma-like”" in page.locator("#why").inner_text()
    assert "1: 0.91" in page.locator("#why").inner_text()
    page.keyboard.press("l")
    page.keyboard.press("ArrowRight")
    seen = [pane.locator(".box").is_visible() for pane in page.locator(".pane").all()]
    assert seen == [False, True], "boxes lie only on the frames that were matched"
    page.keyboard.press("ArrowLeft")
    assert page.locator(".pane").first.locator(".box").is_visible()


def test_space_and_level_are_chosen_explained_and_linked_and_more_cases_follow(page, box: LightBox):
    with_spaces(page, box)
    asked = searched_by_contract(page, box)
    open_study(page, box, GLIOMA)
    assert "The same anatomy" in page.locator(".chooser").inner_text()
    assert "right in about 84 of 100" in page.locator(".vote").inner_text()
    page.get_by_label("Similar by").select_option("brain-mr")
    until(page, "document.querySelector('.chooser')?.textContent.includes('learned to tell apart')")
    page.wait_for_selector(".grid [data-rank]")
    page.get_by_label("Compare", exact=True).select_option("study")
    until(page, "location.hash.includes('level=study')")
    page.wait_for_selector(".grid [data-rank]")
    assert (asked[-1]["space"], asked[-1]["level"]) == ("brain-mr", "study")
    page.get_by_role("button", name="More similar cases").click()
    page.wait_for_selector("[data-rank='8']")
    assert asked[-1]["cursor"] == "more"
    page.go_back()
    until(page, "!location.hash.includes('level=')")
    assert "space=brain-mr" in page.url


def test_a_region_is_drawn_by_keys_and_by_mouse_and_searched(page, box: LightBox):
    with_spaces(page, box)
    asked = searched_by_contract(page, box)
    open_study(page, box, GLIOMA)
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    page.keyboard.press("r")
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    until(page, "location.hash.includes('region=0.390,0.350,0.300,0.320')")
    page.wait_for_selector(".shot .box")
    assert asked[-1]["region"] == {"left": 0.39, "top": 0.35, "width": 0.3, "height": 0.32}
    assert asked[-1]["sop_instance_uid"]
    page.get_by_role("button", name="Region", exact=True).click()
    assert page.locator("#draw-region").get_attribute("aria-pressed") == "true"
    area = page.locator(".picture").bounding_box()
    page.mouse.move(area["x"] + area["width"] * 0.2, area["y"] + area["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.6, area["y"] + area["height"] * 0.5)
    page.mouse.up()
    page.get_by_role("button", name="Search this region").click()
    until(page, "location.hash.includes('region=0.200,0.200,0.400,0.300')")
    until(page, "document.querySelectorAll('.shot .box').length === 4")
    assert abs(asked[-1]["region"]["width"] - 0.4) < 0.01


def test_no_region_is_offered_where_none_is_indexed(page, box: LightBox):
    open_study(page, box, GLIOMA)
    assert not page.get_by_role("button", name="Region", exact=True).is_visible()
    page.keyboard.press("r")
    assert page.locator("#region-words").inner_text() == ""


def test_window_and_level_change_by_drag_and_keys_and_are_reset(page, box: LightBox):
    open_study(page, box, GLIOMA)
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    slope = "Number(document.querySelector('#window feFuncR').getAttribute('slope'))"
    size = page.locator(".picture").bounding_box()
    for key in ("ArrowRight", "ArrowRight", "+"):
        page.keyboard.press(key)
        assert page.locator(".picture").bounding_box() == size, f"after {key} the picture keeps its size"
    assert page.evaluate(slope) > 1
    assert "url" in page.locator("img.frame").first.evaluate("node => getComputedStyle(node).filter")
    page.keyboard.press("0")
    assert page.evaluate(slope) == 1
    area = page.locator(".picture").bounding_box()
    page.mouse.move(area["x"] + 200, area["y"] + 150)
    page.mouse.down(button="right")
    page.mouse.move(area["x"] + 100, area["y"] + 150)
    page.mouse.up(button="right")
    assert page.evaluate(slope) > 1.3
    assert "8-bit picture" in page.locator(".level").inner_text()
    page.get_by_role("button", name="Reset window").click()
    assert page.evaluate(slope) == 1


def test_a_study_that_becomes_known_appears_is_announced_and_moves_nothing(page, box: LightBox):
    describe(page, box, "/v1/events")
    known = page.request.get(f"{box.url}/v1/studies?limit=60").json()
    newest, *older = known["studies"]
    newest["verdicts"] = []
    told: list = []

    waiting: list = []
    page.route(f"{box.url}/v1/events", lambda route: waiting.append(route))
    page.route(
        f"{box.url}/v1/studies?*",
        lambda route: route.fulfill(
            content_type="application/json", body=json.dumps(known if told else {**known, "studies": older})
        ),
    )
    page.goto(box.url)
    page.wait_for_selector("#list li")
    page.locator("#query").focus()
    page.evaluate("document.querySelector('#list-scroll').scrollTop = 500")
    read = (
        f"document.querySelector('#list a[data-uid=\"{older[6]['study_instance_uid']}\"]').getBoundingClientRect().top"
    )
    before = page.evaluate(read)
    while not waiting:
        page.wait_for_timeout(30)
    # Not before the reader is further down: the row comes in above what is read.
    told.append(newest)
    stream = f"retry: 60000\nevent: study\nid: 1\ndata: {json.dumps(newest)}\n\n"
    waiting[0].fulfill(content_type="text/event-stream", body=stream)
    until(page, "document.querySelector('#live').textContent.includes('waits for its prediction')")
    until(page, f"document.querySelectorAll('#list li').length === {len(older) + 1}")
    assert page.evaluate("document.activeElement.id") == "query"
    assert abs(page.evaluate(read) - before) < 2


def test_after_a_gap_in_the_news_the_list_is_read_anew(page, box: LightBox):
    describe(page, box, "/v1/events")
    waiting: list = []
    page.route(f"{box.url}/v1/events", lambda route: waiting.append(route))
    page.goto(box.url)
    page.wait_for_selector("#list li")
    while not waiting:
        page.wait_for_timeout(30)
    # Asked for by the news, not by the clock.
    page.evaluate("const last = setInterval(() => {}, 1e8); for (let at = 1; at <= last; at += 1) clearInterval(at)")
    with page.expect_response(f"{box.url}/v1/studies?*"):
        stream = "retry: 60000\nevent: reset\nid: 1\ndata: {}\n\n"
        waiting[0].fulfill(content_type="text/event-stream", body=stream)


def test_a_service_that_asks_who_is_there_is_told_by_a_key(page, box: LightBox):
    describe(page, box, "/v1/session")
    answer(page, f"{box.url}/v1/session", {"required": True, "principal": None, "roles": []})
    page.goto(box.url)
    page.get_by_label("API key or token").wait_for()
    page.unroute(f"{box.url}/v1/session")
    asked: list = []
    answer(page, f"{box.url}/v1/session", {"type": "x", "title": "No"}, status=401, asked=asked)
    page.get_by_label("API key or token").fill("wrong")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#sign-in-said').textContent.includes('does not know this key')")
    assert asked[0] == {"credential": "wrong"}
    page.unroute(f"{box.url}/v1/session")
    answer(page, f"{box.url}/v1/session", {"required": True, "principal": "reader-1", "roles": ["reader"]})
    page.get_by_label("API key or token").fill("right")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()
    assert not page.locator("#sign-in").is_visible()


def test_too_many_requests_are_told_in_words(page, box: LightBox):
    answer(page, f"{box.url}/v1/search", {"type": "x", "title": "x"}, status=429)
    page.goto(f"{box.url}/#/study/{box.seed.studies[GLIOMA].uid}")
    page.locator("#neighbours .state.error").wait_for()
    assert "Too many requests" in page.locator("#neighbours").inner_text()


def validate(page, box: LightBox) -> None:
    describe(page, box, "/v1/validation")
    answer(page, f"{box.url}/v1/validation", {"tasks": [{"name": "brain-mr", "title": "Brain MR"}]})
    answer(page, f"{box.url}/v1/validation/brain-mr", REPORT)
    page.goto("about:blank")  # the page reads the description once
    page.goto(f"{box.url}/#/validation/brain-mr")
    page.wait_for_selector(".report svg")


def test_validation_opens_on_the_task_of_the_study_and_leads_back_to_it(page, box: LightBox):
    describe(page, box, "/v1/validation")
    tasks = [{"name": "another", "title": "Another"}, {"name": "brain-mr", "title": "Brain MR"}]
    answer(page, f"{box.url}/v1/validation", {"tasks": tasks})
    for task in tasks:
        answer(page, f"{box.url}/v1/validation/{task['name']}", {**REPORT, **task})
    open_study(page, box, GLIOMA)
    page.keyboard.press("v")
    page.wait_for_selector(".report svg")
    assert page.locator("#validation [aria-current]").inner_text() == "brain-mr"
    page.get_by_role("link", name="another").click()
    until(page, "document.querySelector('#validation [aria-current]')?.textContent === 'another'")
    page.keyboard.press("Escape")
    until(page, "document.body.dataset.view === 'study'")
    assert box.seed.studies[GLIOMA].uid in page.url


def test_validation_shows_diagrams_with_tables_and_says_phantom(page, box: LightBox):
    validate(page, box)
    assert page.locator(".report svg").count() == 2
    assert page.locator(".report table").count() == 4
    assert "Phantom results" in page.locator("#validation .caution").inner_text()
    assert "0.40 (0.30 to 0.50)" in page.locator("#validation").inner_text()


@pytest.mark.parametrize("page", [(390, 844), (1280, 800)], indirect=True)
def test_axe_finds_nothing_serious_in_any_view(page, box: LightBox):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    width = page.viewport_size["width"]

    def check(view: str) -> None:
        page.wait_for_timeout(200)  # transitions end
        answered = axe.run(page).response
        assert answered["passes"], "axe looked at nothing"
        found = answered["violations"]
        faults = [
            (fault["id"], [node["html"][:160] for node in fault["nodes"]])
            for fault in found
            if fault["impact"] in {"serious", "critical"}
        ]
        assert faults == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view

    with_spaces(page, box)
    page.goto(box.url)
    page.wait_for_selector("#list li")
    check("list")
    open_study(page, box, GLIOMA)
    check("study")
    page.locator("[data-rank='1']").click()
    page.wait_for_selector(".stage.comparing")
    page.keyboard.press("r")
    check("comparison and region")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    check("help")
    page.keyboard.press("Escape")
    open_study(page, box, ABSTAINED)
    check("abstained")
    validate(page, box)
    check("validation")


def test_the_page_is_small():
    static = Path(services.query.__file__).parent / "static"
    assert sum(file.stat().st_size for file in static.rglob("*") if file.is_file()) < STATIC_BYTES_MAX
