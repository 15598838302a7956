"""What fuzzing found, each with the request that found it."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI
from light_box_seed import Seed

from services.query.problems import ERRORS_MAX
from services.query.requests import Filters
from services.query.settings import QuerySection, QuerySettings
from tests.services.query.conftest import client_of, ready_app

FILTERS = Filters.model_json_schema()["properties"]


async def ask_json(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await client.post("/v1/search", content=body, headers={"content-type": "application/json"})


async def test_an_upload_to_compare_may_be_as_large_as_one_to_search(seed: Seed):
    app = ready_app(seed, QuerySettings(query=QuerySection(body_max_bytes=1000, upload_max_bytes=400_000)))
    study = seed.studies[0]
    assert len(study.files[0]) > 1000
    async with client_of(app) as client:
        answer = await client.post(
            "/v1/matches/upload", params={"sop_instance_uid": study.sops[1]}, files={"file": ("scan", study.files[0])}
        )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", ["Doe^John", "a b", "\ud800", "x" * 65, "line\nbreak"])
async def test_a_name_that_a_client_made_up_is_not_repeated(client: httpx.AsyncClient, name: str):
    answer = await ask_json(client, json.dumps({"study_instance_uid": "1.2", name: 1}).encode())
    assert answer.status_code == 422
    assert [error["where"] for error in answer.json()["errors"]] in (["body.?"], ["body"])
    assert name not in answer.json()["errors"][0]["detail"]


async def test_a_misspelt_name_is_told(client: httpx.AsyncClient):
    answer = await ask_json(client, b'{"study_instance_uid": "1.2", "limti": 1}')
    assert answer.json()["errors"][0]["where"] == "body.limti"


async def test_many_mistakes_are_answered_with_the_first_ones(client: httpx.AsyncClient):
    answer = await ask_json(client, json.dumps({f"x{number}": 1 for number in range(5000)}).encode())
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == ERRORS_MAX


@pytest.mark.parametrize("field", [name for name, one in FILTERS.items() if "maxItems" in one])
async def test_too_many_values_of_a_filter_are_refused(client: httpx.AsyncClient, seed: Seed, field: str):
    value = "finding" if field == "decision" else "x"
    values = {field: [value] * (FILTERS[field]["maxItems"] + 1)}
    upload = await client.post("/v1/search/upload", params=values, files={"file": ("scan", seed.studies[0].files[0])})
    for answer in (await client.get("/v1/studies", params=values), upload):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["where"] == f"query.{field}"


async def test_the_path_in_a_problem_is_percent_encoded(client: httpx.AsyncClient):
    answer = await client.get("/v1/nothing/%C3%A9%20%0D%0A%22")
    assert answer.json()["instance"] == "/v1/nothing/%C3%A9%20%0D%0A%22"


@pytest.mark.parametrize("path", ["/v1/studies/", "/static", "/v1/info/"])
async def test_nothing_is_redirected(app: FastAPI, path: str):
    async with client_of(app) as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("wanted", ["bytes=x", "bytes=9-1", "bytes=99999999-", "bytes=0-1"])
@pytest.mark.parametrize("path", ["/", "/static/app.css"])
async def test_a_range_is_answered_in_full(client: httpx.AsyncClient, path: str, wanted: str):
    whole = await client.get(path)
    answer = await client.get(path, headers={"range": wanted})
    assert (answer.status_code, answer.content) == (200, whole.content)
