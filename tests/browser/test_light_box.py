"""The page in a real browser, served by the real app."""

from __future__ import annotations

import re
import time

import pytest
from light_box_seed import PATIENT_NAME, not_an_image

from tests.browser.conftest import LightBox, Watch

pytestmark = pytest.mark.browser

GLIOMA, ABSTAINED, NO_TASK, WAITING = 4, 16, 18, 19


UNNAMED = """() => [...document.querySelectorAll('a, button, input')]
  .filter((node) => node.offsetParent !== null)
  .filter((node) => !(node.textContent.trim() || node.getAttribute('aria-label')
    || node.labels?.[0]?.textContent.trim() || node.querySelector('img[alt]:not([alt=""])')))
  .map((node) => node.outerHTML)"""

POOR_CONTRAST = """() => {
  const parse = (text) => {
    const found = text.match(/[0-9.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const linear = (value) => (value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour[3] > .7) return colour;
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor);
  };
  const saysSomething = (node) => node.offsetParent
    && [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  return [...document.querySelectorAll('body *')].filter(saysSomething).map((node) => {
    const lights = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    return [(lights[0] + .05) / (lights[1] + .05), node.className, node.textContent.trim().slice(0, 30)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


def until(page, expression: str) -> None:
    """Wait for a JavaScript expression; the page's policy forbids the polling that Playwright injects."""
    end = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.03)


def open_study(page, box: LightBox, at: int, *, neighbours: bool = True):
    page.goto(f"{box.url}/#/study/{box.seed.studies[at].uid}")
    page.wait_for_selector(".grid [data-rank]" if neighbours else "#neighbours .state")


def test_the_list_names_every_study_and_the_notice_stands(page, box: LightBox, watch: Watch):
    page.goto(box.url)
    page.wait_for_selector("#list li")
    assert page.locator("#list li").count() == len(box.seed.studies)
    assert page.locator(".notice").is_visible()
    assert "Research use only" in page.locator(".notice").inner_text()
    assert PATIENT_NAME not in page.content()
    assert (watch.errors, watch.foreign) == ([], [])


def test_picking_a_study_shows_prediction_image_map_and_neighbours(page, box: LightBox, watch: Watch):
    page.goto(box.url)
    study = box.seed.studies[GLIOMA]
    page.locator(f'#list a[data-uid="{study.uid}"]').click()
    page.wait_for_selector(".grid [data-rank]")
    assert page.url.endswith(f"#/study/{study.uid}")
    assert page.locator(".headline.finding .label").inner_text().startswith("glioma-like")
    assert page.locator(".bars li").count() == 4
    assert page.locator(".grid [data-rank]").count() == 10
    assert "similar studies" in page.locator(".vote").inner_text()
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    until(page, "document.querySelector('img.layer').naturalWidth > 0")
    assert page.locator("img.layer").is_visible()
    assert (watch.errors, watch.foreign) == ([], [])


def test_the_map_lies_exactly_on_the_frame(page, box: LightBox):
    open_study(page, box, GLIOMA)
    until(page, "document.querySelector('img.layer').naturalWidth > 0")
    assert page.locator("img.layer").bounding_box() == page.locator("img.frame").bounding_box()


def test_the_map_goes_and_comes_and_fades(page, box: LightBox):
    open_study(page, box, GLIOMA)
    layer, button = page.locator("img.layer"), page.get_by_role("button", name="Map", exact=True)
    page.keyboard.press("m")
    assert not layer.is_visible()
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert layer.is_visible()
    before = float(layer.evaluate("node => getComputedStyle(node).opacity"))
    page.keyboard.press("]")
    assert float(layer.evaluate("node => getComputedStyle(node).opacity")) > before
    page.get_by_label("Map opacity").fill("0")
    assert float(layer.evaluate("node => getComputedStyle(node).opacity")) == 0


def test_frames_are_walked_by_wheel_keys_and_slider(page, box: LightBox):
    open_study(page, box, GLIOMA)
    place = page.locator(".place")
    slices = len(box.seed.studies[GLIOMA].sops)
    page.get_by_label("Frame", exact=True).fill("1")
    assert place.inner_text().startswith(f"1 / {slices}")
    page.locator("body").focus()
    page.keyboard.press("ArrowRight")
    assert place.inner_text().startswith(f"2 / {slices}")
    stage = page.locator("#stage").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    page.mouse.wheel(0, 100)
    until(page, f"document.querySelector('.place').textContent.startsWith('3 / {slices}')")
    page.keyboard.press("ArrowLeft")
    assert place.inner_text().startswith(f"2 / {slices}")
    shown = page.locator("img.frame").get_attribute("src")
    # In space the last object of the manifest comes first.
    assert shown is not None
    assert box.seed.studies[GLIOMA].sops[-2] in shown


def test_abstained_no_task_and_waiting_never_look_like_a_finding(page, box: LightBox):
    for at, kind in ((ABSTAINED, "abstained"), (NO_TASK, "no-task")):
        open_study(page, box, at)
        assert page.locator(".headline").get_attribute("class") == f"headline {kind}"
        assert page.locator(".headline .label").count() == 0
        assert page.locator(".headline .confidence").count() == 0
    open_study(page, box, WAITING, neighbours=False)
    assert "Not judged yet" in page.locator("#diagnosis").inner_text()
    assert "Not searchable" in page.locator("#neighbours").inner_text()


def test_arrows_walk_the_list_and_a_digit_compares_a_neighbour(page, box: LightBox):
    page.goto(box.url)
    page.wait_for_selector("#list li")
    page.keyboard.press("ArrowDown")
    until(page, f"location.hash.endsWith('{box.seed.studies[-1].uid}')")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".grid [data-rank='2']")
    expected = page.locator("[data-rank='2']").get_attribute("href")
    page.keyboard.press("2")
    until(page, f"location.hash === '{expected}'")
    page.wait_for_selector(".stage.comparing")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('.stage.comparing')")
    page.keyboard.press("Escape")
    until(page, "location.hash === '#/'")


def test_filters_and_search_narrow_the_list(page, box: LightBox):
    page.goto(box.url)
    page.wait_for_selector("#list li")
    page.get_by_role("button", name=re.compile("^CT, 1 study")).click()
    until(page, "document.querySelectorAll('#list li').length === 1")
    page.get_by_role("button", name=re.compile("^CT, 1 study")).click()
    page.keyboard.press("/")
    page.keyboard.type("glioma")
    until(page, "document.querySelectorAll('#list li').length === 4")
    page.keyboard.type("zzz")
    page.wait_for_selector("#list-state .state.empty")
    page.get_by_role("button", name="Clear filters").click()
    until(page, f"document.querySelectorAll('#list li').length === {len(box.seed.studies)}")


def test_an_uploaded_file_is_shown_with_its_neighbours(page, box: LightBox, watch: Watch):
    page.goto(box.url)
    study = box.seed.studies[GLIOMA]
    file = {"name": "scan.dcm", "mimeType": "application/dicom", "buffer": study.files[2]}
    page.set_input_files("#upload", file)
    page.wait_for_selector(".grid [data-rank]")
    assert page.locator("[data-rank='1']").get_attribute("data-place").startswith(f"{study.uid}/")
    assert "No prediction" in page.locator("#diagnosis").inner_text()
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    assert (watch.errors, watch.foreign) == ([], [])


def test_a_bad_upload_is_refused_in_words_and_the_page_goes_on(page, box: LightBox, watch: Watch):
    page.goto(box.url)
    bad = {"name": "report.dcm", "mimeType": "application/dicom", "buffer": not_an_image()}
    page.set_input_files("#upload", bad)
    said = page.locator("#stage .state.error")
    said.wait_for()
    assert "Not an image" in said.inner_text()
    assert said.get_attribute("role") == "alert"
    open_study(page, box, GLIOMA)
    # The browser itself notes the refused request, and nothing else is wrong.
    assert [error for error in watch.errors if "415" not in error] == []


def test_without_the_index_the_study_is_shown_and_the_search_can_be_repeated(page, box: LightBox):
    box.index.away = True
    try:
        page.goto(f"{box.url}/#/study/{box.seed.studies[GLIOMA].uid}")
        trouble = page.locator("#neighbours .state.error")
        trouble.wait_for()
        assert page.locator(".headline.finding").is_visible()
    finally:
        box.index.away = False
    trouble.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".grid [data-rank]")


def test_an_unknown_study_is_an_error_state(page, box: LightBox):
    page.goto(f"{box.url}/#/study/1.2.3.4")
    page.locator("#stage .state.error").wait_for()
    assert page.locator("h1").inner_text() == "Unknown study"


def test_an_empty_archive_says_what_to_do(page, empty_box: LightBox, watch: Watch):
    page.goto(empty_box.url)
    page.wait_for_selector("#list-state .state.empty")
    assert "No studies yet" in page.locator("#list-state").inner_text()
    assert watch.errors == []


@pytest.mark.parametrize("page", [(390, 844), (820, 1000), (1280, 800)], indirect=True)
def test_nothing_scrolls_sideways(page, box: LightBox):
    width = page.viewport_size["width"]
    page.goto(box.url)
    page.wait_for_selector("#list li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    open_study(page, box, GLIOMA)
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for block in ("#diagnosis", "#neighbours", "#stage", ".controls"):
        place = page.locator(block).bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width
        assert place["height"] > 40


def test_every_control_has_a_name_and_focus_is_seen(page, box: LightBox):
    open_study(page, box, GLIOMA)
    unnamed = page.evaluate(UNNAMED)
    assert unnamed == []
    pictures = "() => [...document.images].filter((image) => !image.hasAttribute('alt')).length"
    assert page.evaluate(pictures) == 0
    page.locator("body").focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            """() => { const node = document.activeElement; const box = node.closest('label.button') ?? node;
            return [getComputedStyle(node).outlineStyle, getComputedStyle(box).outlineStyle] }"""
        )
        assert "solid" in outline


def test_text_has_contrast(page, box: LightBox):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1, computed from the styles in use."""
    open_study(page, box, GLIOMA)
    poor = page.evaluate(POOR_CONTRAST)
    assert poor == []
