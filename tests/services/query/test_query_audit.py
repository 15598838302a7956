"""The audit log of real requests over real HTTP: who looked at which study, and that it names nobody's patient."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from light_box_seed import HEAD, LABELS, PATIENT_ID, PATIENT_NAME, TASK, FakeEncoder, Seed
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware

from services.query import app as module
from services.query.access.api_keys import changing, new_key
from services.query.access.settings import AuthSection
from services.query.access.users import Role
from services.query.app import build_parts, label_definitions, run
from services.query.audit.actions import ACTIONS, NOT_RECORDED, SESSION_PATH, action_of
from services.query.audit.log import AuditLog, AuditSection
from services.query.http import build_app
from services.query.schema import TaskInfo
from services.query.settings import QuerySection, QuerySettings
from shared.archive import MemoryArchive
from shared.events import Decision, Event
from shared.health import Health, bind, serve
from shared.settings import ArchiveSettings
from shared.vector_index.memory import MemoryIndex

Record = dict[str, Any]
OWN = {"110120", "110121", "110133", "110134"}
DEFINITIONS = label_definitions(QuerySettings())


class Named(AuthenticationBackend):
    """Stands for an authentication that lets everybody in."""

    async def authenticate(self, conn):
        name = conn.headers.get("x-test-user")
        return (AuthCredentials(), SimpleUser(name)) if name else None


class Taken:
    """A broker that acknowledges everything."""

    async def publish(self, topic: str, event: Event) -> None:
        pass


@pytest.fixture
def seed() -> Seed:
    encoder = FakeEncoder()
    seed = Seed(MemoryArchive(), MemoryIndex(encoder.dim), encoder)
    seed.study(1, label="glioma-like", decision=Decision.FINDING, explained=True)
    for number in (2, 3, 4):
        seed.study(number, label="normal", slices=2)
    return seed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@contextlib.asynccontextmanager
async def served(seed: Seed, path: Path, *, named: bool = False, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The service over a real socket; what it recorded is in the file at the end."""
    audit = AuditSection(file=path, **options.pop("audit", {}))
    query = QuerySection(audit=audit, catalogue_max_age_s=0, event_poll_s=0.05, decode_workers=0, **options)
    log = AuditLog(query.audit, source_id="node")
    app = build_app(query, Health(), log)
    if named:
        app.add_middleware(AuthenticationMiddleware, backend=Named())
    app.state.parts = build_parts(
        QuerySettings(query=query),
        archive=seed.archive,
        index=seed.index,
        encoder=seed.encoder,
        tasks=(
            TaskInfo(name=TASK, title="Brain MR", labels=LABELS, findings=LABELS[1:], abstain_below=0.5, head_id=HEAD),
        ),
        definitions=DEFINITIONS.values(),
        publisher=Taken(),
    )
    async with (
        serve(app, bind("127.0.0.1", 0), grace_s=5) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        yield client
        app.state.parts.news.stop()
    log.close()


def told(path: Path) -> list[Record]:
    """Records but those of the log's own beginning and end."""
    records = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    return [record for record in records if _type(record) not in OWN]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def _type(record: Record) -> str:
    code: str = record["EventIdentification"].get("EventTypeCode", [{"csd-code": ""}])[0]["csd-code"]
    return code


def short(record: Record) -> tuple[str, str, str, int, str]:
    """Event, action's word, EventActionCode, indicator and description."""
    event, objects = record["EventIdentification"], record.get("ParticipantObjectIdentification", [])
    code = event["EventID"]["csd-code"]
    word = objects[0]["ParticipantObjectID"] if code == "110112" else ""
    if code == "110103":
        word = objects[0]["ParticipantObjectDetail"][0]["value"]
    return code, word, event["EventActionCode"], event["EventOutcomeIndicator"], event["EventOutcomeDescription"]


def studies(record: Record, place: str | None = None) -> list[str]:
    found = [one for one in record["ParticipantObjectIdentification"] if one["ParticipantObjectTypeCodeRole"] == "3"]
    if place is not None:
        found = [one for one in found if one["ParticipantObjectDetail"][0]["value"] == place]
    return [one["ParticipantObjectID"] for one in found]


def patients(record: Record) -> list[str]:
    objects = record["ParticipantObjectIdentification"]
    return [one["ParticipantObjectID"] for one in objects if one["ParticipantObjectTypeCode"] == "1"]


# What is recorded


async def test_every_route_is_recorded_or_known_to_tell_of_no_study(seed: Seed):
    app = build_app(QuerySection(), Health())
    templates = {path for path in app.openapi()["paths"] if path.startswith("/v1/")}
    assert templates == {template for _, template in ACTIONS} | NOT_RECORDED | {SESSION_PATH}
    for (method, template), action in ACTIONS.items():
        found = action_of(method, template.replace("{study_instance_uid}", "1.2").replace("{", "").replace("}", ""))
        assert found == (action, "1.2" if "{study_instance_uid}" in template else None)


async def test_an_access_says_who_when_what_and_which_study(seed: Seed, path: Path):
    study = seed.studies[0]
    async with served(seed, path, named=True) as client:
        before = datetime.now(UTC)
        await client.get(f"/v1/studies/{study.uid}", headers={"x-test-user": "reader-7"})
        await client.get(f"/v1/studies/{study.uid}")
    by_name, anonymous = told(path)
    event = by_name["EventIdentification"]
    assert event["EventID"]["originalText"] == "DICOM Instances Accessed"
    assert abs(datetime.fromisoformat(event["EventDateTime"]) - before).total_seconds() < 30
    who, service = by_name["ActiveParticipant"]
    assert who == {
        "UserID": "reader-7",
        "UserIsRequestor": True,
        "NetworkAccessPointTypeCode": "2",
        "NetworkAccessPointID": "127.0.0.1",
    }
    assert (service["UserID"], service["AlternativeUserID"]) == (str(os.getpid()), "similis-query")
    assert (studies(by_name), patients(by_name)) == ([study.uid], [study.pseudonym])
    assert short(by_name) == ("110103", "study", "R", 0, "success: 200")
    assert anonymous["ActiveParticipant"][0]["UserID"] == "anonymous"


async def test_each_way_to_a_study_has_its_record(seed: Seed, path: Path):
    study = seed.studies[0]
    base, other = f"/v1/studies/{study.uid}", seed.studies[1]
    label, task_map = f"{base}/labels/{TASK}", f"{base}/explanations/{TASK}/{study.map_name}"
    reference = {"sop_instance_uid": study.sops[0], "frame_number": 1}
    async with served(seed, path) as client:
        answers = [
            await client.get(f"{base}/instances/{study.sops[0]}/frames/1.png"),
            await client.get(f"{task_map}.png"),
            await client.get(f"{task_map}.json"),
            await client.put(label, json={"label": "normal", "comment": "secret words"}),
            await client.get(f"{base}/labels"),
            await client.delete(label),
            await client.post(
                "/v1/matches", json={"query": reference, "neighbour": {"sop_instance_uid": other.sops[0]}}
            ),
            await client.get("/v1/facets"),
            await client.get(f"/v1/labels/{TASK}"),
            await client.get("/v1/info"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 201, 200, 200, 200, 200, 200, 200]
    records = told(path)
    assert [short(record)[:3] for record in records] == [
        ("110103", "frame", "R"),
        ("110103", "map", "R"),
        ("110103", "map-record", "R"),
        ("110103", "label-given", "U"),
        ("110103", "labels", "R"),
        ("110103", "label-withdrawn", "U"),
        ("110103", "match", "R"),
        ("110103", "match", "R"),
        ("110112", "facets", "E"),
        ("110112", "task-labels", "E"),
    ]
    assert [studies(record) for record in records[:8]] == [[study.uid]] * 7 + [[other.uid]]
    assert patients(records[7]) == [other.pseudonym]
    assert "secret words" not in path.read_text()


async def test_a_request_for_maps_names_the_study_of_its_body(seed: Seed, path: Path):
    study = seed.studies[0]
    async with served(seed, path) as client:
        answer = await client.post("/v1/explanations", json={"study_instance_uid": study.uid, "task": TASK})
        await client.post("/v1/explanations", json={"task": TASK})
    assert answer.status_code == 202, answer.text
    first, second = told(path)
    assert (short(first), studies(first)) == (("110103", "map-requested", "C", 0, "success: 202"), [study.uid])
    assert (short(second)[3:], studies(second), patients(second)) == ((4, "failure: 422"), ["<none>"], ["<none>"])


async def test_a_search_names_the_study_it_began_with_and_those_of_its_answer(seed: Seed, path: Path):
    study = seed.studies[0]
    async with served(seed, path) as client:
        body = (await client.post("/v1/search", json={"study_instance_uid": study.uid})).json()
    [record] = told(path)
    assert short(record) == ("110112", "search", "E", 0, "success: 200")
    assert studies(record, "query") == [study.uid]
    assert studies(record, "answer") == [hit["study_instance_uid"] for hit in body["results"]] != []
    roles = [one["RoleIDCode"][0]["originalText"] for one in record["ActiveParticipant"]]
    assert roles == ["Source Role ID", "Destination Role ID"]


async def test_a_list_names_no_more_studies_than_set_and_says_how_many_there_were(seed: Seed, path: Path):
    async with served(seed, path, audit={"studies_max": 3}) as client:
        await client.get("/v1/studies", params={"q": "Miller^Jane"})
        listed = (await client.get("/v1/studies")).json()["studies"]
    none, record = told(path)
    assert (studies(none), none["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"][0]["value"]) == (
        [],
        "0",
    )
    assert studies(record) == [one["study_instance_uid"] for one in listed[:3]]
    assert record["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"] == [
        {"type": "Studies", "value": "4"}
    ]
    # People type names into searches.
    assert "Miller" not in path.read_text()


async def test_an_upload_leaves_neither_its_name_nor_its_patient(seed: Seed, path: Path):
    async with served(seed, path) as client:
        file = {"file": ("Miller^Jane.dcm", seed.studies[1].files[0])}
        answer = await client.post("/v1/search/upload", files=file)
    assert answer.status_code == 200, answer.text
    [record] = told(path)
    assert short(record)[:2] == ("110112", "search-upload")
    assert set(studies(record, "answer")) == {hit["study_instance_uid"] for hit in answer.json()["results"]}
    text = path.read_text()
    assert not any(secret in text for secret in ("Miller", PATIENT_NAME, PATIENT_ID, "data:image", "vector"))


async def test_a_batch_is_one_record_of_all_its_studies(seed: Seed, path: Path):
    first, second = seed.studies[:2]
    searches = [{"study_instance_uid": uid, "limit": 1} for uid in (first.uid, second.uid, "1.2.3.4")]
    async with served(seed, path) as client:
        await client.post("/v1/search/batch", json={"searches": searches})
    [record] = told(path)
    assert studies(record, "query") == [first.uid, second.uid, "1.2.3.4"]


async def test_many_pictures_of_a_study_are_told_once_and_then_as_a_number(seed: Seed, path: Path):
    first, second = seed.studies[:2]
    async with served(seed, path, named=True) as client:
        for user in ("a", "b"):
            for sop in first.sops:
                url = f"/v1/studies/{first.uid}/instances/{sop}/frames/1.png"
                assert (await client.get(url, headers={"x-test-user": user})).status_code == 200
        url = f"/v1/studies/{second.uid}/instances/{second.sops[0]}/frames/1.png"
        etag = (await client.get(url)).headers["etag"]
        await client.get(url, headers={"if-none-match": etag})
        await until(lambda: len(told(path)) == 3)  # the first ones are told at once
    found = {(record["ActiveParticipant"][0]["UserID"], *studies(record), short(record)[4]) for record in told(path)}
    assert found == {
        ("a", first.uid, "success: 200"),
        ("a", first.uid, "success: 200, 4 more times"),
        ("b", first.uid, "success: 200"),
        ("b", first.uid, "success: 200, 4 more times"),
        ("anonymous", second.uid, "success: 200"),
        ("anonymous", second.uid, "success: 200, 1 more times"),
    }


async def test_what_is_not_found_or_fails_is_recorded_as_such(seed: Seed, path: Path):
    study = seed.studies[0]
    async with served(seed, path) as client:
        await client.get("/v1/studies/1.2.3.4")
        await client.get("/v1/studies/Miller%5EJane")
        await client.get(f"/v1/studies/{study.uid}/instances/9.9/frames/1.png")
        seed.archive.put(f"instances/{study.uid}/{study.series}/{study.sops[0]}.dcm", b"corrupt")
        await client.get(f"/v1/studies/{study.uid}/instances/{study.sops[0]}/frames/1.png")
        await client.post("/v1/search", json={"study_instance_uid": "1.2.3.4"})
    records = told(path)
    assert [(*short(record)[3:], *studies(record)) for record in records] == [
        (4, "not found: 404", "1.2.3.4"),
        (4, "failure: 422", "<none>"),
        (4, "not found: 404", study.uid),
        (8, "failure: 500", study.uid),
        (4, "not found: 404", "1.2.3.4"),
    ]
    assert "Miller" not in path.read_text()


async def test_a_stream_of_events_is_recorded_when_it_begins_and_with_what_it_told(seed: Seed, path: Path):
    async with served(seed, path) as client, client.stream("GET", "/v1/events") as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()
        async with asyncio.timeout(10):
            await anext(lines)
            await until(lambda: [short(record)[:2] for record in told(path)] == [("110112", "events")])
            late = seed.study(9)
            async for line in lines:
                if line == "event: study":
                    break
    begun, ended = told(path)
    assert (studies(begun), studies(ended)) == ([], [late.uid])


# Who is refused


@pytest.fixture
def keys(tmp_path: Path) -> dict[Role, str]:
    made = {role: new_key(role.value, role, created_at=datetime.now(UTC), expires_at=None) for role in Role}
    with changing(tmp_path / "keys.json") as records:
        records.extend(record for _, record in made.values())
    return {role: key for role, (key, _) in made.items()}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_refused_credentials_and_roles_are_recorded(seed: Seed, path: Path, keys: dict[Role, str]):
    study = seed.studies[0].uid
    async with served(seed, path, auth=AuthSection(keys_file=path.parent / "keys.json")) as client:
        for number in range(3):
            assert (await client.get(f"/v1/studies/{study}", headers=bearer(f"guess-{number}"))).status_code == 401
        url, reader = f"/v1/studies/{study}/labels/{TASK}", bearer(keys[Role.READER])
        assert (await client.put(url, json={"label": "normal"}, headers=reader)).status_code == 403
        assert (await client.get(f"/v1/studies/{study}", headers=reader)).status_code == 200
    records = {(short(record)[0], _type(record), *short(record)[3:]): record for record in told(path)}
    assert set(records) == {
        ("110114", "110122", 4, "denied: 401"),
        ("110103", "", 4, "denied: 403"),
        ("110103", "", 0, "success: 200"),
        ("110114", "110122", 4, "denied: 401, 2 more times"),
    }
    failed, denied = records["110114", "110122", 4, "denied: 401"], records["110103", "", 4, "denied: 403"]
    assert failed["ActiveParticipant"][0]["NetworkAccessPointID"] == "127.0.0.1"
    assert denied["ActiveParticipant"][0]["UserID"] == "key:reader"
    assert studies(denied) == [study]
    assert not any(secret in path.read_text() for secret in ("guess-", *keys.values()))


async def test_signing_in_and_out_is_recorded(seed: Seed, path: Path, keys: dict[Role, str]):
    async with served(seed, path, auth=AuthSection(keys_file=path.parent / "keys.json")) as client:
        await client.post(SESSION_PATH, json={"credential": "wrong"})
        signed_in = await client.post(SESSION_PATH, json={"credential": keys[Role.ADMIN]})
        assert signed_in.status_code == 200
        origin = {"origin": str(client.base_url).rstrip("/")}
        assert (await client.delete(SESSION_PATH, headers=origin)).status_code == 204
    assert [(_type(record), short(record)[4], record["ActiveParticipant"][0]["UserID"]) for record in told(path)] == [
        ("110122", "denied: 401", "anonymous"),
        ("110122", "success: 200", "key:admin"),
        ("110123", "success: 204", "key:admin"),
    ]


# From where


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ((), "203.0.113.9", "127.0.0.1"),
        (("10.0.0.0/8",), "203.0.113.9", "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.1",), "6.6.6.6, 203.0.113.9", "203.0.113.9"),
    ],
)
async def test_only_a_trusted_proxy_says_whose_a_request_is(
    seed: Seed, path: Path, trusted: tuple[str, ...], forwarded: str, address: str
):
    async with served(seed, path, trusted_proxies=trusted) as client:
        await client.get("/v1/facets", headers={"x-forwarded-for": forwarded})
    assert [record["ActiveParticipant"][0]["NetworkAccessPointID"] for record in told(path)] == [address]


# The log itself


async def test_without_a_file_nothing_is_recorded_and_all_is_served(seed: Seed):
    log = AuditLog(AuditSection())
    assert not log.is_on
    app = build_app(QuerySection(), Health(), log)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        assert (await client.get("/livez")).status_code == 200


async def test_the_service_records_its_start_and_its_end(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch):
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    bound: list[socket.socket] = []
    monkeypatch.setattr(module, "_prepare", never)
    monkeypatch.setattr(module, "bind", lambda host, port: bound.append(bind(host, port)) or bound[0])
    settings = QuerySettings(
        query=QuerySection(port=0, audit=AuditSection(file=path)),
        archive=ArchiveSettings(url=str(tmp_path / "archive")),
    )
    service = asyncio.create_task(run(settings))
    async with asyncio.timeout(20):
        while not bound:
            await asyncio.sleep(0.01)
        host, port = bound[0].getsockname()[:2]
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            answer = await client.get("/v1/studies/1.2.3")
        os.kill(os.getpid(), signal.SIGTERM)
        await service
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert answer.status_code == 503
    assert [_type(record) for record in records] == ["110120", "110134", "", "110121", "110133"]
    assert short(records[2])[3:] == (8, "failure: 503")


async def test_a_stranger_who_signs_out_or_sends_nonsense_does_not_fill_the_disk(seed: Seed, path: Path):
    async with served(seed, path) as client:
        for _ in range(20):
            assert (await client.delete("/v1/session")).status_code == 204
            assert (await client.post("/v1/session", json={})).status_code == 422
    records = [record for record in told(path) if record["EventIdentification"]["EventID"]["csd-code"] == "110114"]
    assert [record["EventIdentification"]["EventOutcomeDescription"] for record in records] == [
        "success: 204",
        "failure: 422",
        "success: 204, 19 more times",
        "failure: 422, 19 more times",
    ]
