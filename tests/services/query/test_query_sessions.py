"""Sessions of the page: what the cookie is, what ends it, and who may use it for what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from light_box_seed import Seed

from services.query.access.api_keys import changing, new_key
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.settings import QuerySection, QuerySettings
from shared.health import bind, serve
from tests.services.query.conftest import client_of, ready_app

OWN_PAGE = {"sec-fetch-site": "same-origin"}
COOKIE = "similis-session"
LABEL = "/v1/studies/1.2/labels/brain-mr"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(file: Path) -> str:
    return made(file, "alice")


def made(file: Path, name: str, role: Role = Role.OPERATOR) -> str:
    key, record = new_key(name, role, created_at=datetime.now(UTC), expires_at=None)
    with changing(file) as records:
        records.append(record)
    return key


def guarded(seed: Seed, file: Path, **auth: object) -> FastAPI:
    section = AuthSection.model_validate({"keys_file": file, **auth})
    query = QuerySection(catalogue_max_age_s=0, allowed_hosts=("localhost", "127.0.0.1", "box.test"), auth=section)
    return ready_app(seed, QuerySettings(query=query))


async def sign_in(client: httpx.AsyncClient, key: str, **headers: str) -> httpx.Response:
    return await client.post("/v1/session", json={"credential": key}, headers=headers)


async def status_of(client: httpx.AsyncClient) -> int:
    return (await client.get("/v1/studies")).status_code


async def test_signing_in_looking_and_signing_out(empty: Seed, file: Path, key: str):
    async with client_of(guarded(empty, file)) as client:
        before = (await client.get("/v1/session")).json()
        assert before == {"required": True, "principal": None, "roles": [], "ends_at": None}
        assert await status_of(client) == 401
        answer = await sign_in(client, key, **OWN_PAGE)
        assert answer.status_code == 200
        assert (answer.json()["principal"], answer.json()["roles"]) == ("key:alice", ["reader", "operator"])
        assert (await client.get("/v1/session")).json() == answer.json()
        assert await status_of(client) == 200
        value = client.cookies[COOKIE]
        assert value not in answer.text
        assert (await client.delete("/v1/session", headers=OWN_PAGE)).status_code == 204
        assert COOKIE not in client.cookies
        # Not only forgotten by the browser.
        client.cookies.set(COOKIE, value)
        assert await status_of(client) == 401
        assert (await client.get("/v1/session")).json() == before


@pytest.mark.parametrize(
    ("base", "cookie_secure", "is_secure"),
    [
        ("http://localhost", None, False),
        ("http://127.0.0.1:8080", None, False),
        ("http://box.test", None, True),
        ("https://box.test", None, True),
        ("http://localhost", True, True),
        ("http://box.test", False, False),
    ],
)
async def test_the_cookie_is_out_of_reach_of_scripts_other_sites_and_plain_http(
    empty: Seed, file: Path, key: str, base: str, cookie_secure: bool | None, is_secure: bool
):
    async with client_of(guarded(empty, file, cookie_secure=cookie_secure)) as client:
        client.base_url = base
        said = (await sign_in(client, key)).headers["set-cookie"]
    name = f"__Host-{COOKIE}" if is_secure else COOKIE
    cookie = SimpleCookie(said)[name]
    assert len(cookie.value) == 43
    assert (cookie["httponly"], cookie["samesite"].lower(), cookie["path"]) == (True, "strict", "/")
    assert (bool(cookie["secure"]), cookie["domain"]) == (is_secure, "")


@pytest.mark.parametrize("credential", ["", "wrong", "similis_000000000000_" + "A" * 43, "a.b.c", "x" * 20_000])
async def test_a_wrong_key_opens_no_session_and_is_not_repeated(
    empty: Seed, file: Path, key: str, credential: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    async with client_of(guarded(empty, file)) as client:
        answer = await sign_in(client, credential)
    assert answer.status_code == (401 if credential else 422)
    assert "set-cookie" not in answer.headers
    if credential:
        assert credential not in answer.text
        assert credential not in caplog.text


async def test_a_session_ends_with_the_key_that_opened_it(empty: Seed, file: Path, key: str):
    async with client_of(guarded(empty, file)) as client:
        await sign_in(client, key)
        assert await status_of(client) == 200
        with changing(file) as records:
            records.clear()
        assert await status_of(client) == 401


async def test_a_session_ends_after_its_lifetime(empty: Seed, file: Path, key: str):
    async with client_of(guarded(empty, file, session_lifetime_s=1)) as client:
        await sign_in(client, key)
        assert await status_of(client) == 200
        await asyncio.sleep(1.05)
        assert await status_of(client) == 401


async def test_signing_in_again_ends_the_session_before(empty: Seed, file: Path, key: str):
    async with client_of(guarded(empty, file)) as client:
        await sign_in(client, key)
        before = client.cookies[COOKIE]
        await sign_in(client, key)
        assert client.cookies[COOKIE] != before
        client.cookies = httpx.Cookies({COOKIE: before})
        assert await status_of(client) == 401


async def test_sessions_are_bounded_for_one_user_and_in_all(empty: Seed, file: Path, key: str):
    app = guarded(empty, file, sessions_per_user_max=2, sessions_max=3)
    values = []
    async with client_of(app) as client:
        for other in (key, key, key, made(file, "bob")):
            client.cookies = httpx.Cookies()
            assert (await sign_in(client, other)).status_code == 200
            values.append(client.cookies[COOKIE])
        statuses = []
        for value in values:
            client.cookies = httpx.Cookies({COOKIE: value})
            statuses.append(await status_of(client))
        assert statuses == [401, 200, 200, 200]
        client.cookies = httpx.Cookies()
        full = await sign_in(client, made(file, "carol"))
    assert (full.status_code, full.json()["type"]) == (503, "urn:similis:problem:busy")
    assert int(full.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost"}, True),
        ({"origin": "http://localhost"}, True),
        ({"origin": "https://localhost"}, True),  # behind a proxy that ends TLS
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost"}, False),
        ({"origin": "http://localhost:9999"}, False),
        ({"origin": "https://evil.test"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[broken"}, False),
        ({"origin": ""}, False),
        ({}, False),
    ],
    ids=str,
)
async def test_with_the_cookie_only_the_own_page_changes_anything(
    empty: Seed, file: Path, key: str, headers: dict[str, str], is_let_in: bool
):
    async with client_of(guarded(empty, file)) as client:
        await sign_in(client, key)
        answer = await client.put(LABEL, json={"label": "x"}, headers=headers)
        assert (answer.status_code, answer.json()["type"].split(":")[-1]) == (
            (404, "unknown-task") if is_let_in else (403, "other-site")
        )
        left = await client.delete("/v1/session", headers=headers)
        assert left.status_code == (204 if is_let_in else 403)
        assert await status_of(client) == (401 if is_let_in else 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 200), (OWN_PAGE, 200), ({"origin": "https://evil.test"}, 403), ({"sec-fetch-site": "cross-site"}, 403)],
)
async def test_another_site_signs_nobody_in(empty: Seed, file: Path, key: str, headers: dict[str, str], status: int):
    async with client_of(guarded(empty, file)) as client:
        assert (await sign_in(client, key, **headers)).status_code == status


async def test_a_header_counts_before_the_cookie(empty: Seed, file: Path, key: str):
    async with client_of(guarded(empty, file)) as client:
        await sign_in(client, made(file, "reader", Role.READER))
        by_key = {"authorization": f"Bearer {key}"}
        # No browser adds this header by itself, so no page needs to be asked after.
        assert (await client.put(LABEL, json={"label": "x"}, headers=by_key)).status_code == 404
        wrong = {"authorization": "Bearer similis_wrong"}
        assert (await client.get("/v1/studies", headers=wrong)).status_code == 401


async def test_an_open_stream_ends_when_its_session_does(empty: Seed, file: Path, key: str):
    auth = AuthSection(keys_file=file)
    query = QuerySection(catalogue_max_age_s=0, event_poll_s=0.05, event_keep_alive_s=0.05, auth=auth)
    app = ready_app(empty, QuerySettings(query=query))
    async with (
        serve(app, bind("127.0.0.1", 0), grace_s=5) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        assert (await client.get("/v1/events")).status_code == 401
        await sign_in(client, key)
        async with client.stream("GET", "/v1/events") as response:
            lines = response.aiter_lines()
            assert await anext(lines) == ": research use only"
            await client.delete("/v1/session", headers=OWN_PAGE)
            empty.study(2)
            async with asyncio.timeout(5):
                assert not [line async for line in lines if line.startswith("event: study")]
        app.state.parts.news.stop()


async def test_after_signing_out_the_browser_shows_no_picture_without_asking(seed: Seed, file: Path, key: str):
    """Else the next one at this browser sees pictures that nobody let them see, and no record tells of it."""
    study = seed.studies[0]
    picture = f"/v1/studies/{study.uid}/instances/{study.sops[0]}/frames/1.png"
    async with client_of(guarded(seed, file)) as client:
        await sign_in(client, key, **OWN_PAGE)
        first = await client.get(picture)
        again = await client.get(picture, headers={"if-none-match": first.headers["etag"]})
        await client.delete("/v1/session", headers=OWN_PAGE)
        after = await client.get(picture, headers={"if-none-match": first.headers["etag"]})
    assert [answer.status_code for answer in (first, again, after)] == [200, 304, 401]
    assert {answer.headers["cache-control"] for answer in (first, again)} == {"private, no-cache"}
    async with client_of(ready_app(seed)) as client:
        assert (await client.get(picture)).headers["cache-control"] == "private, max-age=3600"
