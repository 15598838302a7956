"""The least role of every route, and that nothing is open by oversight."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from light_box_seed import TASK, Seed
from starlette.routing import compile_path

from services.query.access.api_keys import changing, new_key
from services.query.access.route_roles import ROUTE_ROLES, RouteRoles
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.http import build_app
from services.query.settings import QuerySection, QuerySettings
from shared.health import Health
from tests.services.query.conftest import client_of, ready_app

# Of the app's routes, those that its OpenAPI document leaves out.
UNDESCRIBED = {"/", "/static/{path:path}", "/openapi.json", "/livez", "/readyz", "/metrics"}
VALUES = {"study_instance_uid": "1.2", "sop_instance_uid": "1.3", "frame_number": "1", "path": "app.css"}
ROUTES = [(method, path, least) for path, methods in ROUTE_ROLES.items() for method, least in methods.items()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key_of(file: Path) -> dict[Role, str]:
    made = {}
    with changing(file) as records:
        for role in Role:
            made[role], record = new_key(role.value, role, created_at=datetime.now(UTC), expires_at=None)
            records.append(record)
    return made


@pytest.fixture
def guarded(empty: Seed, file: Path, key_of: dict[Role, str]) -> FastAPI:
    return app_of(empty, AuthSection(keys_file=file, metrics_open=False))


def app_of(seed: Seed, auth: AuthSection) -> FastAPI:
    return ready_app(seed, QuerySettings(query=QuerySection(catalogue_max_age_s=0, event_stream_max_s=0.01, auth=auth)))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def filled(template: str) -> str:
    return re.sub(
        r"{(\w+)(?::path)?}", lambda found: VALUES.get(found[1], "00000000-0000-0000-0000-000000000000"), template
    )


def test_every_route_has_a_least_role_and_every_role_a_route():
    document = build_app(QuerySection(), Health()).openapi()
    described = {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    assert described == {(method, path) for method, path, _ in ROUTES if path not in UNDESCRIBED}


def test_a_path_has_one_template():
    patterns = {template: compile_path(template)[0] for template in ROUTE_ROLES}
    for template in ROUTE_ROLES:
        assert [other for other, pattern in patterns.items() if pattern.match(filled(template))] == [template]


async def test_each_role_may_do_what_it_covers_and_nothing_else(guarded: FastAPI, key_of: dict[Role, str]):
    async with client_of(guarded) as client:
        for method, template, least in ROUTES:
            told = []
            for role in (None, *Role):
                headers = {} if role is None else bearer(key_of[role])
                answer = await client.request(method, filled(template), headers=headers)
                told.append(answer.status_code if answer.status_code in {401, 403} else 0)
            expected = {
                None: [0, 0, 0, 0],
                Role.READER: [401, 0, 0, 0],
                Role.OPERATOR: [401, 403, 0, 0],
                Role.ADMIN: [401, 403, 403, 0],
            }[least]
            assert told == expected, (method, template)


async def test_the_page_and_the_probes_open_to_anybody_and_show_nothing_of_a_study(guarded: FastAPI):
    async with client_of(guarded) as client:
        for path in ("/", "/static/app.css", "/openapi.json", "/livez", "/readyz", "/v1/session"):
            assert (await client.get(path)).status_code == 200, path


async def test_metrics_are_open_unless_set_otherwise(empty: Seed, file: Path, key_of: dict[Role, str]):
    async with client_of(app_of(empty, AuthSection(keys_file=file))) as client:
        assert (await client.get("/metrics")).status_code == 200


async def test_a_new_route_is_open_to_nobody_before_it_is_given_a_role(guarded: FastAPI, key_of: dict[Role, str]):
    guarded.add_api_route("/v1/new", lambda: {"secret": 1})
    guarded.add_api_route("/v1/info", lambda: {"secret": 1}, methods=["PATCH"])
    async with client_of(guarded) as client:
        assert (await client.get("/v1/new")).status_code == 401
        for role in Role:
            headers = bearer(key_of[role])
            assert (await client.get("/v1/new", headers=headers)).status_code == 404
            refused = await client.patch("/v1/info", headers=headers)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path", ["/v1//studies", "//v1/studies", "/v1/studies/", "/V1/studies", "/v1/./studies", "/static/../v1/studies"]
)
async def test_other_spellings_of_a_path_lead_nowhere(guarded: FastAPI, empty: Seed, path: str):
    study = empty.study(1)
    async with client_of(guarded) as client:
        answer = await client.get(httpx.URL("http://localhost").copy_with(raw_path=path.encode()))
    assert answer.status_code in {401, 404}
    assert study.uid not in answer.text


async def test_nothing_of_a_body_is_read_before_it_is_known_who_sends_it(guarded: FastAPI):
    read = []

    async def body():
        read.append(1)
        yield b"x" * 1000

    async with client_of(guarded) as client:
        answer = await client.post("/v1/search/upload", content=body())
    # The transport of the test asks for the first part only if the app does.
    assert (answer.status_code, read) == (401, [])


async def test_web_sockets_stay_closed(guarded: FastAPI):
    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/studies", "headers": [(b"host", b"localhost")]}
    await guarded(scope, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_pages_of_other_origins_get_no_leave_to_read(guarded: FastAPI, key_of: dict[Role, str]):
    origin = {"origin": "https://evil.test"}
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with client_of(guarded) as client:
        preflights = [await client.options(path, headers=asked) for path in ("/v1/search", "/v1/session", "/")]
        read = await client.get("/v1/studies", headers={**origin, **bearer(key_of[Role.READER])})
    assert all(answer.status_code in {401, 405} for answer in preflights)
    assert read.headers["cross-origin-resource-policy"] == "same-origin"
    for answer in (*preflights, read):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_labels_carry_the_principal(empty: Seed, file: Path, key_of: dict[Role, str]):
    from services.query.app import build_parts
    from shared.vision.tasks import BUILT_IN, load_definition

    settings = QuerySettings(query=QuerySection(catalogue_max_age_s=0, auth=AuthSection(keys_file=file)))
    app = build_app(settings.query, Health())
    app.state.parts = build_parts(
        settings,
        archive=empty.archive,
        index=empty.index,
        encoder=empty.encoder,
        definitions=[load_definition(BUILT_IN / TASK)],
    )
    path = f"/v1/studies/{empty.study(1).uid}/labels/{TASK}"
    async with client_of(app) as client:
        given = await client.put(path, json={"label": "normal"}, headers=bearer(key_of[Role.OPERATOR]))
        again = await client.put(path, json={"label": "glioma-like"}, headers=bearer(key_of[Role.READER]))
    assert (given.status_code, given.json()["recorded_by"]) == (201, "key:operator")
    assert (again.status_code, again.json()["type"]) == (403, "urn:similis:problem:role-needed")


async def test_without_keys_and_issuer_nobody_is_asked(app: FastAPI, caplog: pytest.LogCaptureFixture):
    async with client_of(app) as client:
        assert (await client.get("/v1/studies")).status_code == 200
        session = (await client.get("/v1/session")).json()
        assert (session["required"], session["principal"], session["roles"]) == (False, None, [])
        refused = await client.post("/v1/session", json={"credential": "x"})
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:similis:problem:no-sign-in")
        assert (await client.delete("/v1/session")).status_code == 204
    assert "anybody who reaches" not in caplog.text
    build_app(QuerySection(host="0.0.0.0", allowed_hosts=("box.test",)), Health())
    assert "anybody who reaches 0.0.0.0" in caplog.text


def test_the_document_says_how_to_sign_in_and_who_may_do_what():
    document = build_app(QuerySection(), Health()).openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "session"}
    search, session = document["paths"]["/v1/search"]["post"], document["paths"]["/v1/session"]["post"]
    assert (search["x-role"], search["security"]) == ("reader", [{"bearer": []}, {"session": []}])
    assert {"401", "403"} <= set(search["responses"])
    assert "security" not in session


def test_head_is_where_get_is_for_files_only():
    roles = RouteRoles()
    assert roles.of("HEAD", "/static/app.css") is None
    assert roles.of("GET", "/v1/studies") is Role.READER
