"""Tokens of a real OIDC provider on loopback: what is taken, what is not, and what happens while it is away."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from light_box_seed import Seed
from oidc_issuer import AUDIENCE, EC_KEY, RSA_KEY, Issuer, public_jwk
from pydantic import ValidationError

from services.query.access.errors import CredentialRefusedError, CredentialUncheckedError
from services.query.access.fetch import Fetch
from services.query.access.provider import Provider, _usable
from services.query.access.settings import AuthSection, is_trustworthy
from services.query.settings import QuerySection, QuerySettings
from tests.services.query.conftest import client_of, ready_app

PAUSE_S = 0.05
ISSUER_PATHS = ("/.well-known/openid-configuration", "/keys")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.stop()


def auth_of(issuer: Issuer, **changed: object) -> AuthSection:
    given = {
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "signing_keys_pause_s": PAUSE_S,
        "provider_timeout_s": 0.5,
        **changed,
    }
    return AuthSection.model_validate(given)


def guarded(seed: Seed, auth: AuthSection) -> FastAPI:
    return ready_app(seed, QuerySettings(query=QuerySection(catalogue_max_age_s=0, auth=auth)))


@pytest.fixture
async def client(empty: Seed, issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(guarded(empty, auth_of(issuer))) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, token: str, path: str = "/v1/studies") -> httpx.Response:
    return await client.get(path, headers={"authorization": f"Bearer {token}"})


def is_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:similis:problem:credential-refused"
    assert answer.headers["www-authenticate"] == 'Bearer realm="similis", error="invalid_token"'


@pytest.mark.parametrize("kid", ["rsa", "ec"])
async def test_a_good_token_opens_and_names_its_subject(client: httpx.AsyncClient, issuer: Issuer, kid: str):
    assert (await ask(client, issuer.token(kid))).status_code == 200
    session = (await ask(client, issuer.token(kid), "/v1/session")).json()
    assert (session["principal"], session["roles"]) == ("oidc:4711", ["reader"])


@pytest.mark.parametrize(
    ("roles_claim", "claims", "expected"),
    [
        ("roles", {"roles": "similis-operator other"}, ["reader", "operator"]),
        ("roles", {"roles": ["similis-reader", "similis-admin"]}, ["reader", "operator", "admin"]),
        ("realm_access.roles", {"realm_access": {"roles": ["similis-reader"]}}, ["reader"]),
        ("https://a.test/roles", {"https://a.test/roles": ["similis-reader"]}, ["reader"]),
        ("roles", {"roles": ["admin", "reader", 3, None]}, []),
        ("roles", {"roles": ...}, []),
        ("roles.deeper", {"roles": "similis-admin"}, []),
    ],
)
async def test_roles_come_from_the_claim_that_is_set(
    empty: Seed, issuer: Issuer, roles_claim: str, claims: dict, expected: list[str]
):
    async with client_of(guarded(empty, auth_of(issuer, roles_claim=roles_claim))) as client:
        token = issuer.token(**claims)
        assert (await ask(client, token, "/v1/session")).json()["roles"] == expected
        answer = await ask(client, token)
    assert answer.status_code == (200 if expected else 403)
    if not expected:
        assert answer.json()["type"] == "urn:similis:problem:role-needed"
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1_000_000_000},
        {"exp": ...},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"aud": "another service"},
        {"aud": ["another", "third"]},
        {"aud": ...},
        {"iss": "https://evil.test"},
        {"iss": ...},
        {"sub": ...},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 256},
    ],
    ids=lambda changed: "-".join(f"{name}={str(value)[:12]}" for name, value in changed.items()),
)
async def test_claims_that_are_wrong_or_missing_are_refused(client: httpx.AsyncClient, issuer: Issuer, changed: dict):
    is_refused(await ask(client, issuer.token(**changed)))


async def test_the_clock_may_be_off_by_the_leeway_and_no_more(empty: Seed, issuer: Issuer):
    now = int(time.time())
    async with client_of(guarded(empty, auth_of(issuer, leeway_s=30))) as client:
        assert (await ask(client, issuer.token(exp=now - 10))).status_code == 200
        assert (await ask(client, issuer.token(nbf=now + 10))).status_code == 200
        is_refused(await ask(client, issuer.token(exp=now - 40)))
        is_refused(await ask(client, issuer.token(nbf=now + 60)))


def b64(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_by_public_key(issuer: Issuer) -> str:
    """The classic: HS256 with the RSA public key as the shared secret. PyJWT will not make it, so by hand."""
    pem = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signing_input = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{b64(issuer.claims())}"
    import hashlib
    import hmac

    return f"{signing_input}.{b64(hmac.digest(pem, signing_input.encode(), hashlib.sha256))}"


def unsigned(issuer: Issuer, algorithm: str) -> str:
    return f"{b64({'alg': algorithm, 'kid': 'rsa'})}.{b64(issuer.claims())}."


def with_header(issuer: Issuer, **header: object) -> str:
    return jwt.encode(issuer.claims(), RSA_KEY, "RS256", headers={"kid": "rsa", **header})


FORGERIES = {
    "HS256 by the public key": signed_by_public_key,
    "none": lambda issuer: unsigned(issuer, "none"),
    "None": lambda issuer: unsigned(issuer, "None"),
    "RS256 without signature": lambda issuer: unsigned(issuer, "RS256"),
    "another key of the same name": lambda issuer: issuer.token(
        key=rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ),
    "EC signature under the RSA key's name": lambda issuer: issuer.token("rsa", "ES256", key=EC_KEY),
    "an algorithm that is not set": lambda issuer: issuer.token("rsa", "RS512"),
    "a key that the provider does not name": lambda issuer: issuer.token("other", "RS256", key=RSA_KEY),
    "no key named": lambda issuer: jwt.encode(issuer.claims(), RSA_KEY, "RS256"),
    "key in the header": lambda issuer: with_header(issuer, kid="mine", jwk=public_jwk(RSA_KEY, "mine")),
    "an unknown critical extension": lambda issuer: with_header(issuer, crit=["exp"]),
    "detached payload": lambda issuer: with_header(issuer, b64=False, crit=["b64"]),
    "claims changed after signing": lambda issuer: ".".join(
        [*issuer.token().split(".")[:1], b64(issuer.claims(roles=["similis-admin"])), issuer.token().split(".")[2]]
    ),
    "claims that are no object": lambda issuer: jwt.api_jws.encode(b"[1]", RSA_KEY, "RS256", headers={"kid": "rsa"}),
    "a thousand brackets": lambda issuer: f"{b64(b'[' * 10_000)}.e30.AA",
    "too long": lambda issuer: issuer.token(filler="x" * 20_000),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_forgeries_are_refused(client: httpx.AsyncClient, issuer: Issuer, forge):
    is_refused(await ask(client, forge(issuer)))


@pytest.mark.parametrize("exp", [1e18, 2**70])
async def test_a_token_that_never_ends_is_still_told(client: httpx.AsyncClient, issuer: Issuer, exp: float):
    assert (await ask(client, issuer.token(exp=exp), "/v1/session")).json()["ends_at"].startswith("9999")


@pytest.mark.parametrize(
    "header", ["Basic YTpi", "Bearer", "Bearer ", "Bearer a b", "bearer x.y.z", "Token abc", "Bearer similis_x"]
)
async def test_headers_of_other_forms_are_refused(client: httpx.AsyncClient, header: str):
    is_refused(await client.get("/v1/studies", headers={"authorization": header}))


async def test_two_authorization_headers_are_refused(client: httpx.AsyncClient, issuer: Issuer):
    good = ("authorization", f"Bearer {issuer.token()}")
    is_refused(await client.get("/v1/studies", headers=[good, good]))


async def test_a_weak_or_foreign_key_of_the_provider_is_not_used(client: httpx.AsyncClient, issuer: Issuer):
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issuer.private = {"weak": weak, "rsa": RSA_KEY}
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token("weak", "RS256")
    is_refused(await ask(client, token))
    assert (await ask(client, issuer.token())).status_code == 200


# -- the provider's keys ---------------------------------------------------------------------


async def test_rotated_keys_are_found_and_withdrawn_ones_forgotten(client: httpx.AsyncClient, issuer: Issuer):
    assert (await ask(client, issuer.token())).status_code == 200
    old = issuer.token()
    issuer.private = {"new": EC_KEY}
    await asyncio.sleep(PAUSE_S)
    assert (await ask(client, issuer.token("new", "ES256"))).status_code == 200
    is_refused(await ask(client, old))


async def test_unknown_keys_do_not_make_the_provider_be_asked_each_time(empty: Seed, issuer: Issuer):
    async with client_of(guarded(empty, auth_of(issuer, signing_keys_pause_s=60))) as client:
        assert (await ask(client, issuer.token())).status_code == 200
        for number in range(20):
            is_refused(await ask(client, issuer.token(f"k{number}", "RS256", key=RSA_KEY)))
    assert [issuer.asked[path] for path in ISSUER_PATHS] == [1, 1]


async def test_many_at_once_are_one_fetch_and_nobody_else_waits(empty: Seed, issuer: Issuer):
    issuer.gate.clear()
    async with client_of(guarded(empty, auth_of(issuer, provider_timeout_s=10))) as client:
        waiting = [asyncio.create_task(ask(client, issuer.token())) for _ in range(5)]
        while not issuer.asked:
            await asyncio.sleep(0.01)
        assert (await client.get("/livez")).status_code == 200
        assert not any(task.done() for task in waiting)
        issuer.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert [issuer.asked[path] for path in ISSUER_PATHS] == [1, 1]


async def test_while_the_provider_is_away_nobody_unknown_comes_in(client: httpx.AsyncClient, issuer: Issuer):
    token = issuer.token()
    issuer.stop()
    answer = await ask(client, token)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:similis:problem:credential-unchecked")
    assert int(answer.headers["retry-after"]) > 0
    issuer.start_again()
    await asyncio.sleep(PAUSE_S)
    assert (await ask(client, token)).status_code == 200
    issuer.stop()
    await asyncio.sleep(PAUSE_S)
    # What is known goes on; what is not cannot be judged.
    assert (await ask(client, token)).status_code == 200
    is_refused(await ask(client, issuer.token(exp=1_000_000_000)))
    assert (await ask(client, issuer.token("other", "RS256", key=RSA_KEY))).status_code == 503
    issuer.start_again()


async def test_old_keys_are_fetched_anew_beside_and_trusted_up_to_the_limit(issuer: Issuer):
    now = [0.0]
    settings = auth_of(issuer, signing_keys_max_age_s=100, signing_keys_stale_max_s=1000, signing_keys_pause_s=10)
    provider = Provider(settings, Fetch.of(settings), clock=lambda: now[0])
    await provider.key("rsa", "RS256")
    issuer.private = {"new": EC_KEY}
    now[0] = 101
    await provider.key("rsa", "RS256")  # still known, and the fetch begins
    assert provider._fetching is not None
    await provider._fetching
    with pytest.raises(CredentialRefusedError):
        await provider.key("rsa", "RS256")
    issuer.answer = (500, {}, b"")
    now[0] = 1101
    await provider.key("new", "ES256")
    await provider._fetching
    now[0] = 1102
    with pytest.raises(CredentialUncheckedError):
        await provider.key("new", "ES256")


def drip(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b""),
        (404, {}, b"{}"),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b"[" * 100_000),
        (200, {}, b"\xff"),
        (200, {"content-length": "10"}, b"{}"),
        drip,
        lambda handler: handler.connection.close(),
    ],
    ids=["500", "404", "html", "list", "nested", "bytes", "cut", "slow", "closed"],
)
async def test_a_provider_that_answers_badly_is_as_good_as_away(client: httpx.AsyncClient, issuer: Issuer, answer):
    issuer.answer = answer
    began = time.monotonic()
    assert (await ask(client, issuer.token())).status_code == 503
    assert time.monotonic() - began < 5


async def test_a_redirect_is_not_followed(client: httpx.AsyncClient, issuer: Issuer):
    issuer.answer = (302, {"location": f"{issuer.url}/elsewhere"}, b"")
    assert (await ask(client, issuer.token())).status_code == 503
    assert list(issuer.asked) == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    "about",
    [
        {"issuer": "https://other.test"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 5},
        {"jwks_uri": None},
    ],
)
async def test_a_provider_that_names_itself_or_its_keys_wrongly_is_not_believed(
    client: httpx.AsyncClient, issuer: Issuer, about: dict
):
    issuer.about = about
    assert (await ask(client, issuer.token())).status_code == 503
    assert list(issuer.asked) == ["/.well-known/openid-configuration"]


async def test_keys_are_not_fetched_from_where_nobody_can_be_sure_of_them(client: httpx.AsyncClient, issuer: Issuer):
    issuer.about = {"jwks_uri": f"http://user@127.0.0.1:{issuer.port}/keys"}
    assert (await ask(client, issuer.token())).status_code == 503
    assert list(issuer.asked) == ["/.well-known/openid-configuration"]


async def test_a_document_that_is_larger_than_set_is_not_read(empty: Seed, issuer: Issuer):
    async with client_of(guarded(empty, auth_of(issuer, provider_max_bytes=64))) as client:
        assert (await ask(client, issuer.token())).status_code == 503
    assert list(issuer.asked) == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("https://id.test/keys?policy=1", True),
        ("http://127.0.0.1:5000/keys", True),
        ("http://[::1]/keys", True),
        ("http://localhost.id.test/keys", False),
        ("http://192.0.2.1/keys", False),
        ("https://user:word@id.test/keys", False),
        ("https://id.test:port/keys", False),
        ("https:///keys", False),
        ("https://id.test/a\nb", False),
        ("ftp://id.test/keys", False),
        ("data:application/json,{}", False),
    ],
)
def test_only_https_or_loopback_is_asked(url: str, is_taken: bool):
    assert is_trustworthy(url) is is_taken


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://id.test"},
        {"audience": "similis"},
        {"issuer": "http://id.test", "audience": "similis"},
        {"issuer": "https://id.test/?a=b", "audience": "similis"},
        {"issuer": "https://user@id.test", "audience": "similis"},
        {"issuer": "id.test", "audience": "similis"},
        {"issuer": "https://id.test", "audience": "similis", "algorithms": ["HS256"]},
        {"issuer": "https://id.test", "audience": "similis", "algorithms": ["none"]},
        {"issuer": "https://id.test", "audience": "similis", "algorithms": []},
        {"signing_keys_stale_max_s": 5},
        {"required": True},
    ],
)
def test_settings_that_would_leave_a_gap_are_refused(wrong: dict):
    with pytest.raises(ValidationError):
        AuthSection.model_validate(wrong)


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "RS512"},
        {"kid": ...},
        {"kty": "oct", "k": "AQAB"},
        {"crv": "P-256"},
        {"n": "AQAB"},
        {"n": 5},
    ],
    ids=str,
)
def test_entries_that_are_no_key_for_signatures_by_the_algorithm_are_left_out(changed: dict):
    entry = {name: value for name, value in {**public_jwk(RSA_KEY, "rsa"), **changed}.items() if value is not ...}
    assert _usable([public_jwk(RSA_KEY, "rsa")], ["RS256"])
    assert not _usable([entry], ["RS256"])


# -- whatever comes --------------------------------------------------------------------------

FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "roles", "x"]), JSON, max_size=5
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x5c", "zip"]), JSON, max_size=4)


@FUZZ
@given(
    st.one_of(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80), st.binary(max_size=80).map(b64))
)
def test_garbage_is_refused(empty: Seed, issuer: Issuer, garbage: str):
    async def send() -> httpx.Response:
        async with client_of(guarded(empty, auth_of(issuer))) as client:
            return await ask(client, garbage)

    is_refused(asyncio.run(send()))


@FUZZ
@given(HEADERS, CLAIMS)
def test_whatever_is_signed_is_answered_and_lets_in_only_what_is_whole(
    empty: Seed, issuer: Issuer, header: dict, claims: dict
):
    merged = {"alg": "RS256", "kid": "rsa", **header}
    whole = {**issuer.claims(), **claims}
    signing_input = f"{b64(merged)}.{b64(whole)}"
    signature = jwt.algorithms.get_default_algorithms()["RS256"].sign(signing_input.encode(), RSA_KEY)

    async def send() -> httpx.Response:
        async with client_of(guarded(empty, auth_of(issuer))) as client:
            return await ask(client, f"{signing_input}.{b64(signature)}")

    answer = asyncio.run(send())
    assert answer.status_code in {200, 401, 403}, answer.text
    if answer.status_code == 200:
        assert (whole["iss"], whole["roles"]) == (issuer.url, ["similis-reader"])
        assert AUDIENCE in whole["aud"]


@FUZZ
@given(
    st.lists(
        JSON
        | st.dictionaries(
            st.sampled_from(["kty", "kid", "crv", "n", "e", "x", "y", "alg", "use", "key_ops"]),
            JSON | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig"]),
        ),
        max_size=4,
    )
)
def test_key_sets_that_are_none_give_no_key(entries: list):
    _usable(entries, ["RS256", "ES256", "EdDSA"])
    found = _usable([*entries, public_jwk(RSA_KEY, "good")], ["RS256"])
    assert ("good", "RS256") in found
