"""Whatever bytes arrive, the query service answers for itself, tells nothing, and goes nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from tests.fuzz.query import hostile, uploads, wire
from tests.fuzz.query.broken_http import BROKEN
from tests.fuzz.query.document import Api, setting_of
from tests.fuzz.query.running import Service
from tests.fuzz.scale import SEED, share_of_query

KINDS = (
    "application/json",
    "application/json",
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "",
)


@seed(SEED)
@setting_of(share_of_query(0.25))
@given(st.data())
def test_uploads_are_answered(service: Service, data: st.DataObject):
    request, whole = data.draw(uploads.requests())
    wire.ask(service, request, whole=whole)


@seed(SEED)
@setting_of(share_of_query(0.2))
@given(st.data())
def test_hostile_paths_queries_and_headers_are_answered(service: Service, api: Api, canary: str, data: st.DataObject):
    target = data.draw(hostile.targets(api.paths, api.queries, service.known, canary))
    headers = data.draw(hostile.forged(canary))
    method = data.draw(st.sampled_from(hostile.METHODS)) if data.draw(st.integers(0, 2)) == 0 else "GET"
    host = data.draw(st.sampled_from(hostile.HOSTS)) if data.draw(st.integers(0, 4)) == 0 else "localhost"
    answer = wire.ask(service, wire.head(method, target, headers, host=host))
    if answer is not None and host in ("169.254.169.254", f"{hostile.MARK}.example"):
        assert answer.status == 421


@seed(SEED)
@setting_of(share_of_query(0.15))
@given(st.data())
def test_bodies_that_are_hardly_json_are_answered(service: Service, api: Api, data: st.DataObject):
    method, target = data.draw(st.sampled_from(api.json_routes(service)))
    body = data.draw(hostile.bodies(api.examples))
    wire.ask(service, hostile.json_requests(method, target, body, data.draw(st.sampled_from(KINDS))))


@pytest.mark.parametrize("request_bytes", BROKEN, ids=range(len(BROKEN)))
def test_what_is_hardly_http_is_refused_or_answered(service: Service, request_bytes: bytes):
    wire.ask(service, request_bytes, whole=False)


@pytest.mark.parametrize("number", range(len(uploads.bombs())))
def test_no_bomb_costs_much(service: Service, number: int):
    kind, body = uploads.plain_form(uploads.bombs()[number])
    answer = wire.ask(service, wire.with_body("POST", "/v1/search/upload", [("Content-Type", kind)], body))
    assert answer is not None
    assert answer.status in (200, 413, 415, 422)
    assert service.memory_bytes() < 1_500_000_000
