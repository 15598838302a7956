"""Signing in and out in a real browser, on a real service that asks who is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.query.access.api_keys import changing, new_key
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.settings import QuerySection
from tests.browser.conftest import LightBox, Watch, few, light_box
from tests.browser.test_light_box import until

pytestmark = pytest.mark.browser


@dataclass
class Guarded:
    box: LightBox
    key: str
    keys_file: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    key, record = new_key("reading-room", Role.READER, created_at=datetime.now(UTC), expires_at=None)
    with changing(file) as records:
        records.append(record)
    folder = tmp_path_factory.mktemp("guarded-box")
    query = QuerySection(catalogue_max_age_s=0, decode_workers=0, auth=AuthSection(keys_file=file))
    for box in light_box(folder, few, query=query):
        yield Guarded(box, key, file)


def sign_in(page, guarded: Guarded) -> None:
    page.goto(guarded.box.url)
    page.get_by_label("API key or token").fill(guarded.key)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


def test_a_key_signs_in_the_list_comes_and_signing_out_is_final(page, guarded: Guarded):
    page.goto(guarded.box.url)
    page.get_by_label("API key or token").wait_for()
    assert page.locator("#list li").count() == 0
    page.get_by_label("API key or token").fill("similis_wrong")
    page.keyboard.press("Enter")
    page.get_by_text("does not know this key").wait_for()
    page.get_by_label("API key or token").fill(guarded.key)
    page.keyboard.press("Enter")
    page.locator("#list li").first.wait_for()
    assert page.locator("#list li").count() == len(guarded.box.seed.studies)
    assert "key:reading-room" in page.locator("#who").inner_text()
    assert not page.locator("#sign-in").is_visible()
    cookie = page.context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key or token").wait_for()
    assert page.context.cookies() == []
    page.context.add_cookies([cookie])
    page.goto(guarded.box.url)
    page.get_by_label("API key or token").wait_for()


def test_pictures_and_events_come_by_the_cookie(page, guarded: Guarded, watch: Watch):
    sign_in(page, guarded)
    watch.errors.clear()
    with page.expect_response(lambda answer: answer.url.endswith("/v1/events")) as events:
        page.goto(f"{guarded.box.url}/#/study/{guarded.box.seed.studies[4].uid}")
        page.reload()
    assert events.value.status == 200
    page.locator("img.frame").wait_for()
    until(page, "document.querySelector('img.frame').naturalWidth > 0")
    assert (watch.errors, watch.foreign) == ([], [])


def test_a_page_of_another_port_can_neither_read_nor_change_anything(page, guarded: Guarded, empty_box: LightBox):
    # The same "site" by the browser's rules, so the cookie goes along: another origin all the same.
    sign_in(page, guarded)
    page.goto(empty_box.url)
    url, uid = guarded.box.url, guarded.box.seed.studies[0].uid
    tries = f"""async () => {{
      const send = (path, options) => fetch('{url}' + path, {{credentials: 'include', ...options}})
        .then((answer) => answer.type, () => 'blocked');
      return [await send('/v1/studies'), await send('/v1/session', {{method: 'DELETE'}}),
        await send('/v1/studies/{uid}/labels/brain-mr', {{method: 'PUT', body: '{{}}'}})];
    }}"""
    assert page.evaluate(tries) == ["blocked"] * 3
    page.goto(url)
    page.get_by_role("button", name="Sign out").wait_for()


def test_a_revoked_key_ends_the_session_and_the_page_asks_again(page, guarded: Guarded):
    sign_in(page, guarded)
    with changing(guarded.keys_file) as records:
        kept = list(records)
        records.clear()
    try:
        page.goto("about:blank")
        page.goto(guarded.box.url)
        page.get_by_label("API key or token").wait_for()
        assert page.locator("#list li").count() == 0
    finally:
        with changing(guarded.keys_file) as records:
            records[:] = kept
