"""Searching with one frame, and filters for similar cases: chosen, linked, told apart when nothing is left."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import LightBox, Watch
from tests.browser.test_light_box import ABSTAINED, GLIOMA, open_study, until

pytestmark = pytest.mark.browser

RANKS = "document.querySelectorAll('.grid [data-rank]').length"


def searches(page, box: LightBox) -> list[dict]:
    """The bodies of the searches that the page sends from now on; the real service answers."""
    asked: list[dict] = []
    page.on("request", lambda sent: asked.append(sent.post_data_json) if sent.url == f"{box.url}/v1/search" else None)
    return asked


def test_one_frame_is_searched_with_and_linked(page, box: LightBox, watch: Watch):
    asked = searches(page, box)
    open_study(page, box, GLIOMA)
    assert "study_instance_uid" in asked[-1]
    page.get_by_label("Frame", exact=True).fill("2")
    page.get_by_role("button", name="This frame").click()
    until(page, "location.hash.includes('by=')")
    page.wait_for_selector(".grid [data-rank]")
    study = box.seed.studies[GLIOMA]
    assert (asked[-1]["sop_instance_uid"], asked[-1]["frame_number"]) == (study.sops[-2], 1)
    assert "By frame 2 alone." in page.locator("#with-note").inner_text()
    # Scrolling on searches nothing by itself, but offers it.
    sent = len(asked)
    page.get_by_label("Frame", exact=True).fill("4")
    assert len(asked) == sent
    page.get_by_role("button", name="Search with frame 4").click()
    until(page, f"location.hash.includes('by={study.sops[-4]}')")
    page.wait_for_selector(".grid [data-rank]")
    assert asked[-1]["sop_instance_uid"] == study.sops[-4]
    linked = page.url
    page.goto("about:blank")
    page.goto(linked)
    page.wait_for_selector(".grid [data-rank]")
    assert asked[-1]["sop_instance_uid"] == study.sops[-4]
    assert page.locator(".place").inner_text().startswith("4 / 5")
    page.keyboard.press("s")
    until(page, "!location.hash.includes('by=')")
    page.wait_for_selector(".grid [data-rank]")
    assert asked[-1]["study_instance_uid"] == study.uid
    assert (watch.errors, watch.foreign) == ([], [])


def test_a_frame_that_is_not_indexed_leads_back_to_the_study(page, box: LightBox):
    page.goto(f"{box.url}/#/study/{box.seed.studies[GLIOMA].uid}?by=1.2.3/1")
    page.wait_for_selector("#neighbours .state")
    assert "This frame is not searchable" in page.locator("#neighbours").inner_text()
    page.get_by_role("button", name="Search with the whole study").click()
    page.wait_for_selector(".grid [data-rank]")


def test_similar_cases_are_filtered_with_counts_and_the_link_keeps_it(page, box: LightBox, watch: Watch):
    asked = searches(page, box)
    open_study(page, box, GLIOMA)
    page.keyboard.press("n")
    narrow = page.locator("#narrow")
    women = narrow.get_by_role("button", name=re.compile(r"^F, \d+ studies"))
    women.wait_for()
    women.click()
    until(page, "location.hash.includes('sex=F')")
    page.wait_for_selector(".grid [data-rank]")
    # The panel stays open, with the focus where it was.
    until(page, "document.activeElement.dataset.key === 'only:sex:F'")
    narrow.get_by_role("button", name=re.compile("^normal, ")).click()
    until(page, f"{RANKS} === 2")
    assert asked[-1]["filters"] == {"sex": ["F"], "label": ["normal"]}
    assert "measured without filters" in page.locator(".vote").inner_text()
    narrow.get_by_label("from", exact=True).fill("2024-05-12")
    until(page, f"{RANKS} === 1")
    linked = page.url
    page.goto("about:blank")
    page.goto(linked)
    until(page, f"{RANKS} === 1")
    assert asked[-1]["filters"] == {"sex": ["F"], "label": ["normal"], "study_date_from": "2024-05-12"}
    # The study that the link opened is in sight in the list, however far down it stands.
    row, view = page.locator("#list [aria-current]").bounding_box(), page.locator("#list-scroll").bounding_box()
    assert view["y"] <= row["y"] < view["y"] + view["height"] - row["height"] / 2
    page.get_by_role("button", name="Take out Label: normal").click()
    until(page, "!location.hash.includes('label=')")
    page.get_by_role("button", name="Clear all filters").click()
    until(page, f"!location.hash.includes('?sex') && {RANKS} === 10")
    assert (watch.errors, watch.foreign) == ([], [])


def test_ages_come_by_age_and_other_values_as_counted(page, box: LightBox):
    page.goto(box.url)
    in_order = """(field) => import('/static/js/api.js').then((api) =>
        api.inOrder(field, ['70-79', '0-9', '20-29'].map((value) => ({ value }))).map((found) => found.value))"""
    assert page.evaluate(in_order, "age_band") == ["0-9", "20-29", "70-79"]
    assert page.evaluate(in_order, "body_part") == ["70-79", "0-9", "20-29"]


def test_an_empty_answer_names_the_filter_that_emptied_it(page, box: LightBox):
    study = box.seed.studies[GLIOMA].uid
    page.goto(f"{box.url}/#/study/{study}?modality=MR&label=normal&study_date_until=x&study_date_to=1999-12-31")
    page.wait_for_selector("#neighbours .state.empty")
    said = page.locator("#neighbours .state.empty")
    assert "“Study date until: 1999-12-31” leaves none over" in said.inner_text()
    assert said.get_by_role("button", name="Take out Modality").count() == 0
    said.get_by_role("button", name="Take out Study date until").click()
    until(page, f"{RANKS} > 0")
    page.goto(f"{box.url}/#/study/{study}?modality=PET&label=nonsense")
    until(page, "document.querySelector('#neighbours .state.empty')?.textContent.includes('No single filter')")
    page.locator("#neighbours .state").get_by_role("button", name="Clear all filters").click()
    until(page, f"{RANKS} === 10")


def test_filters_hold_for_an_uploaded_file_too(page, box: LightBox):
    page.goto(box.url)
    file = {"name": "scan.dcm", "mimeType": "application/dicom", "buffer": box.seed.studies[GLIOMA].files[2]}
    page.set_input_files("#upload", file)
    page.wait_for_selector(".grid [data-rank]")
    page.keyboard.press("n")
    page.locator("#narrow").get_by_role("button", name=re.compile("^meningioma-like, ")).click()
    until(page, f"{RANKS} === 4")
    assert page.locator("#neighbours .chip.finding").count() == 4


def test_more_cases_follow_and_the_vote_stays_that_of_the_first_ten(page, box: LightBox):
    open_study(page, box, ABSTAINED)
    before = page.locator(".vote > p").first.inner_text()
    stack = page.locator(".stack").get_attribute("aria-label")
    assert not page.locator("#vote-note").is_visible()
    page.get_by_role("button", name="More similar cases").click()
    until(page, f"{RANKS} > 10")
    assert page.locator(".vote > p").first.inner_text() == before
    assert page.locator(".stack").get_attribute("aria-label") == stack
    assert "Counted are the first 10 cases" in page.locator("#vote-note").inner_text()
    assert page.evaluate("document.activeElement.dataset.rank") == "11"


@pytest.mark.parametrize("page", [(390, 844), (1280, 800)], indirect=True)
def test_axe_finds_nothing_serious_in_filters_and_their_empty_state(page, box: LightBox):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.goto(f"{box.url}/#/study/{box.seed.studies[GLIOMA].uid}?modality=PET&label=normal")
    page.wait_for_selector("#neighbours .state.empty")
    page.keyboard.press("n")
    page.wait_for_selector("#narrow .narrow-row")
    page.wait_for_timeout(200)
    found = axe.run(page).response["violations"]
    assert [fault["id"] for fault in found if fault["impact"] in {"serious", "critical"}] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
