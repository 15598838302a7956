"""Rate limits over real HTTP, and whose request it is behind proxies."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from light_box_seed import Seed
from prometheus_client import REGISTRY
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware

from services.query.access.api_keys import changing, new_key
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.client_address import ClientAddresses, group_of
from services.query.rate_limits.middleware import RateLimits, kind_of
from services.query.rate_limits.settings import RateLimitSection
from services.query.settings import QuerySection, QuerySettings
from shared.errors import ConfigurationError
from shared.health import bind, serve
from tests.services.query.conftest import ready_app
from tests.services.query.test_query_api import is_problem

PROXIED = ("127.0.0.1",)


class Named(AuthenticationBackend):
    """Stands for an authentication that lets everybody in."""

    async def authenticate(self, conn):
        name = conn.headers.get("x-test-user")
        return (AuthCredentials(), SimpleUser(name)) if name else None


@contextlib.asynccontextmanager
async def served(
    seed: Seed, *, named: bool = False, limits: dict[str, int], **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    query = QuerySection(catalogue_max_age_s=0, decode_workers=0, rate_limit=RateLimitSection(**limits), **options)
    app = ready_app(seed, QuerySettings(query=query))
    if named:
        # The routes' side of RateLimits is inside of everything that is added later.
        app.add_middleware(AuthenticationMiddleware, backend=Named())
    async with (
        serve(app, bind("127.0.0.1", 0), grace_s=5) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        yield client


def search(seed: Seed) -> dict[str, Any]:
    return {"json": {"study_instance_uid": seed.studies[0].uid, "limit": 1}}


# How often


async def test_whoever_asks_too_often_is_told_when_to_come_back(seed: Seed):
    before = REGISTRY.get_sample_value("similis_query_rate_limited_total", {"limit": "searches"}) or 0
    async with served(seed, limits={"searches_per_minute": 60}) as client:
        answers = [await client.post("/v1/search", **search(seed)) for _ in range(60)]
        assert {answer.status_code for answer in answers} == {200}
        refused = [await client.post("/v1/search", **search(seed)) for _ in range(70)]
        limited = [answer for answer in refused if answer.status_code == 429]
        # One a second comes in while they are asked.
        assert len(limited) >= 50
        is_problem(limited[0], 429, "rate-limited")
        wait_s = int(limited[-1].headers["retry-after"])
        assert wait_s == 1
        await asyncio.sleep(wait_s)
        again = await client.post("/v1/search", **search(seed))
        assert again.status_code == 200
        # Other things are not searches.
        assert (await client.get("/v1/studies")).status_code == 200
    assert again.headers["ratelimit-policy"] == '"searches";q=60;w=60'
    assert again.headers["ratelimit"].startswith('"searches";r=0;t=')
    assert REGISTRY.get_sample_value("similis_query_rate_limited_total", {"limit": "searches"}) == before + len(limited)


async def test_each_user_has_a_limit_of_their_own_wherever_they_come_from(seed: Seed):
    async def status(user: str | None, address: str) -> int:
        headers = {"x-forwarded-for": address, **({"x-test-user": user} if user else {})}
        return (await client.post("/v1/search", **search(seed), headers=headers)).status_code

    limits = {"searches_per_minute": 1}
    async with served(seed, named=True, limits=limits, trusted_proxies=PROXIED) as client:
        assert [await status("a", "203.0.113.1"), await status("a", "203.0.113.2")] == [200, 429]
        assert await status("b", "203.0.113.1") == 200
        assert [await status(None, "203.0.113.1"), await status(None, "203.0.113.1")] == [200, 429]
        assert await status(None, "203.0.113.2") == 200
        # A user's name is no address.
        assert await status("203.0.113.2", "203.0.113.9") == 200


async def test_a_header_of_a_stranger_brings_no_fresh_limit(seed: Seed):
    async with served(seed, limits={"searches_per_minute": 1}) as client:
        found = [
            (
                await client.post("/v1/search", **search(seed), headers={"x-forwarded-for": f"203.0.113.{number}"})
            ).status_code
            for number in range(3)
        ]
    assert found == [200, 429, 429]


async def test_by_default_a_page_of_many_pictures_meets_no_limit(seed: Seed):
    study = seed.studies[0]
    async with served(seed, limits={}) as client:
        for number in range(60):
            url = f"/v1/studies/{study.uid}/instances/{study.sops[number % 5]}/frames/1.png"
            answer = await client.get(url, headers={"cookie": "similis-session=gone"})
            assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/search", "searches"),
        ("POST", "/v1/search/batch", "searches"),
        ("POST", "/v1/matches", "searches"),
        ("POST", "/v1/search/upload", "uploads"),
        ("POST", "/v1/matches/upload", "uploads"),
        ("GET", "/v1/studies/1.2/instances/1.3/frames/1.png", "pictures"),
        ("PUT", "/v1/studies/1.2/labels/brain-mr", "writes"),
        ("POST", "/v1/explanations", "writes"),
        ("POST", "/v1/session", "writes"),
        ("GET", "/v1/studies", "others"),
        ("GET", "/static/app.js", None),
        ("GET", "/metrics", None),
    ],
)
def test_each_request_falls_under_one_limit(method: str, path: str, kind: str | None):
    assert kind_of(method, path) == kind


async def test_many_clients_take_bounded_memory():
    async def nothing(scope, receive, send) -> None:
        pass

    limits = RateLimits(
        nothing, section=RateLimitSection(others_per_minute=5, clients_max=50), clients=ClientAddresses()
    )
    for number in range(1000):
        client = (f"10.0.{number // 250}.{number % 250}", 1)
        await limits({"type": "http", "method": "GET", "path": "/v1/x", "headers": [], "client": client}, None, None)
    backend = limits._limits["others"].limiter._store._backend
    assert len(backend.get_client()) == len(backend.expire_info) == 50


# Guessing of credentials


@pytest.fixture
def key(tmp_path: Path) -> str:
    made, record = new_key("reader", Role.READER, created_at=datetime.now(UTC), expires_at=None)
    with changing(tmp_path / "keys.json") as records:
        records.append(record)
    return made


@contextlib.asynccontextmanager
async def guarded(seed: Seed, tmp_path: Path, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    auth = AuthSection(keys_file=tmp_path / "keys.json")
    async with served(seed, limits={"failed_sign_ins_per_minute": 3}, auth=auth, **options) as client:
        yield client


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


async def test_who_was_let_in_before_is_not_locked_out_by_a_guesser_at_the_same_address(
    seed: Seed, tmp_path: Path, key: str
):
    async with guarded(seed, tmp_path) as client:
        assert (await client.get("/v1/info", headers=bearer(key))).status_code == 200
        guesses = [(await client.get("/v1/info", headers=bearer(f"guess-{number}"))).status_code for number in range(4)]
        assert guesses == [401, 401, 401, 429]
        assert (await client.get("/v1/info", headers=bearer(key))).status_code == 200
        # Once it is refused, it is a guess like any other.
        (tmp_path / "keys.json").write_text('{"version": 1, "keys": []}')
        assert (await client.get("/v1/info", headers=bearer(key))).status_code == 401
        assert (await client.get("/v1/info", headers=bearer(key))).status_code == 429


async def test_an_address_that_guesses_is_not_listened_to(seed: Seed, tmp_path: Path, key: str):
    async with guarded(seed, tmp_path, trusted_proxies=PROXIED) as client:
        guesser = {"x-forwarded-for": "203.0.113.1"}
        statuses = [
            (await client.get("/v1/info", headers={**bearer(f"guess-{number}"), **guesser})).status_code
            for number in range(5)
        ]
        assert statuses == [401, 401, 401, 429, 429]
        right = await client.get("/v1/info", headers={**bearer(key), **guesser})
        is_problem(right, 429, "rate-limited")
        assert right.headers["retry-after"] == "20"
        # The page itself, and everybody else, is served.
        assert (await client.get("/", headers=guesser)).status_code == 200
        assert (await client.get("/v1/info", headers=bearer(key))).status_code == 200


async def test_guesses_at_the_sign_in_count_too(seed: Seed, tmp_path: Path, key: str):
    async with guarded(seed, tmp_path) as client:
        statuses = [
            (await client.post("/v1/session", json={"credential": f"guess-{number}"})).status_code
            for number in range(4)
        ]
    assert statuses == [401, 401, 401, 429]


async def test_the_same_stale_credentials_are_one_guess(seed: Seed, tmp_path: Path, key: str):
    """A page whose session has ended asks for many pictures before it notices."""
    async with guarded(seed, tmp_path) as client:
        for _ in range(10):
            assert (await client.get("/v1/info", headers=bearer("stale"))).status_code == 401
            assert (await client.get("/v1/info")).status_code == 401
        assert (await client.get("/v1/info", headers=bearer(key))).status_code == 200


async def test_guesses_whose_bodies_come_later_count_before_they_are_looked_at(seed: Seed, tmp_path: Path, key: str):
    async def guess(number: int) -> int:
        async def body():
            yield b'{"credential": "guess-'
            await asyncio.sleep(0.3 + 0.1 * number)  # meanwhile the others are let in, too
            yield f'{number}"}}'.encode()

        headers = {"content-type": "application/json"}
        return (await client.post("/v1/session", content=body(), headers=headers)).status_code

    async with guarded(seed, tmp_path) as client:
        statuses = await asyncio.gather(*map(guess, range(8)))
    assert sorted(statuses) == [401] * 3 + [429] * 5


async def test_the_end_of_a_line_in_a_path_leads_past_no_limit(seed: Seed, tmp_path: Path, key: str):
    """The router takes `/v1/session` and a line end for `/v1/session`; whoever compares paths does not."""
    async with guarded(seed, tmp_path) as client:
        for path in ("/v1/session%0A", "/v1/search%0A", "/v1/search/upload%0A", "/metrics%0A", "/%0A"):
            is_problem(await client.post(path, json={"credential": key}), 404, "not-found")
        assert (await client.post("/v1/session", json={"credential": key})).status_code == 200


# Whose request it is

ADDRESSES = st.ip_addresses().map(str)
TRUSTED = ("10.0.0.0/8", "fd00::/8")
PROXIES = st.one_of(
    st.integers(0, 2**24 - 1).map(lambda number: str(ipaddress.IPv4Address((10 << 24) + number))),
    st.integers(0, 2**64 - 1).map(lambda number: str(ipaddress.IPv6Address((0xFD << 120) + number))),
)
STRANGERS = ADDRESSES.filter(
    lambda text: (
        not any(
            ipaddress.ip_address(text) in network for network in map(ipaddress.ip_network, (*TRUSTED, "::ffff:0:0/96"))
        )
    )
)
ANYTHING = st.one_of(ADDRESSES, PROXIES, st.text(st.characters(codec="latin-1"), max_size=40))


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return {"client": None if peer is None else (peer, 4711), "headers": headers}


@given(peer=STRANGERS, claimed=st.lists(ANYTHING, max_size=5))
def test_a_stranger_is_taken_for_nobody_else(peer: str, claimed: list[str]):
    assert ClientAddresses(TRUSTED).of(scope(peer, *claimed)) == str(ipaddress.ip_address(peer))


@given(claimed=st.lists(ANYTHING, max_size=5), client=STRANGERS, proxies=st.lists(PROXIES, min_size=1, max_size=4))
def test_behind_proxies_the_client_is_whom_the_first_of_them_saw(claimed: list[str], client: str, proxies: list[str]):
    """Whatever the client put into the header itself."""
    *between, peer = proxies
    header = ", ".join([*claimed, client, *between])
    assert ClientAddresses(TRUSTED).of(scope(peer, header)) == str(ipaddress.ip_address(client))
    apart = [*claimed, client, *between]
    assert ClientAddresses(TRUSTED).of(scope(peer, *apart)) == str(ipaddress.ip_address(client))


@given(peer=st.one_of(ANYTHING, st.none()), claimed=st.lists(ANYTHING, max_size=5))
def test_whatever_comes_gives_an_address_or_nothing(peer: str | None, claimed: list[str]):
    found = ClientAddresses(TRUSTED).of(scope(peer, *claimed))
    assert not found or str(ipaddress.ip_address(found)) == found


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::9]:4711", "2001:db8::9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, unknown", "10.0.0.1"),
        ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
        ("", "10.0.0.1"),
    ],
)
def test_addresses_are_read_as_proxies_write_them(forwarded: str, client: str):
    assert ClientAddresses(TRUSTED).of(scope("::ffff:10.0.0.1", forwarded)) == client


def test_a_subscriber_of_ipv6_is_one_client():
    assert group_of("2001:db8:0:1::1") == group_of("2001:db8:0:1:ffff::2") != group_of("2001:db8:0:2::1")
    assert group_of("::ffff:203.0.113.9") == group_of("203.0.113.9") == "203.0.113.9"
    assert group_of("") == ""


def test_a_proxy_that_is_no_address_is_a_wrong_setting():
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXIES"):
        ClientAddresses(("proxy.internal",))
