"""Whatever is sent, the service answers for itself: never with a 5xx."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from light_box_seed import Seed, not_an_image, picture, png

from tests.services.query.conftest import client_of, ready_app

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(max_size=40)
NUMBER = st.one_of(st.integers(), st.floats(), TEXT)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
SEARCH = st.dictionaries(
    st.sampled_from(
        [
            "study_instance_uid",
            "series_instance_uid",
            "sop_instance_uid",
            "frame_number",
            "vector",
            "filters",
            "limit",
            "group_by",
            "exclude_own_patient",
        ]
    ),
    st.one_of(ANY_JSON, st.dictionaries(st.sampled_from(["label", "modality", "study_date_from", "x"]), ANY_JSON)),
    max_size=4,
)


@pytest.fixture(scope="module")
def fuzzed(seed: Seed) -> FastAPI:
    return ready_app(seed)


def answer(app: FastAPI, method: str, url: httpx.URL | str, **sent: object) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, url, **sent)

    return asyncio.run(ask())


def check(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"


@FUZZ
@given(st.data())
def test_damaged_uploads(fuzzed: FastAPI, seed: Seed, data: st.DataObject):
    whole = data.draw(
        st.sampled_from(
            [seed.studies[0].files[0], not_an_image(), png(picture(1, "normal", 0.5, 24)), b"\xff\xd8\xff\xe0"]
        )
    )
    cut = data.draw(st.integers(0, len(whole)))
    damaged = bytearray(whole[:cut])
    for _ in range(data.draw(st.integers(0, 6))):
        if damaged:
            # Mostly in the header, where the meaning is.
            damaged[data.draw(st.integers(0, min(len(damaged), 900) - 1))] = data.draw(st.integers(0, 255))
    check(answer(fuzzed, "POST", "/v1/search/upload", files={"file": ("scan", bytes(damaged))}))


@FUZZ
@given(
    st.binary(max_size=400),
    st.sampled_from(["multipart/form-data; boundary=b", "multipart/form-data", "text/plain", ""]),
)
def test_bodies_that_are_no_form(fuzzed: FastAPI, body: bytes, kind: str):
    check(answer(fuzzed, "POST", "/v1/search/upload", content=body, headers={"content-type": kind}))


@FUZZ
@given(SEARCH)
def test_search_requests(fuzzed: FastAPI, body: dict):
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    check(answer(fuzzed, "POST", "/v1/search", content=content, headers={"content-type": "application/json"}))


@FUZZ
@given(
    st.sampled_from(["limit", "cursor", "q", "label", "study_date_from", "decision", "frame_number"]),
    NUMBER,
    st.sampled_from(["/v1/studies", "/v1/facets", "/v1/info"]),
)
def test_query_parameters(fuzzed: FastAPI, name: str, value: object, path: str):
    check(answer(fuzzed, "GET", path, params={name: str(value).encode("utf-8", "replace").decode()}))


@FUZZ
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), st.text(alphabet="0123456789./%-", max_size=40))
def test_paths(fuzzed: FastAPI, anything: str, like_a_uid: str):
    for part in (anything, like_a_uid):
        for template in ("/v1/studies/{}", "/v1/studies/{}/instances/1.2/frames/1.png", "/static/{}"):
            url = httpx.URL("http://similis.test").copy_with(raw_path=template.format(quote(part, safe="/%")).encode())
            check(answer(fuzzed, "GET", url))
