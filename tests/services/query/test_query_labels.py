"""Labels over the real app. That every archive keeps them alike, tests/contracts/test_label_store.py shows."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
import yaml
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from light_box_seed import CALLING_AE, LABELS, PATIENT_ID, PATIENT_NAME, ROOT, TASK, FakeEncoder, Seed
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware

from services.query.app import build_parts, label_definitions
from services.query.http import build_app
from services.query.settings import QuerySection, QuerySettings
from shared.archive import MemoryArchive
from shared.errors import ArchiveUnavailableError, ConfigurationError
from shared.health import Health
from shared.labels import COMMENT_MAX, LabelStore
from shared.settings import VisionSettings
from shared.vector_index.memory import MemoryIndex
from shared.vision.tasks import TaskDefinition
from tests.services.query.conftest import SETTINGS, client_of
from tests.services.query.test_query_api import NOTICE, is_problem

STUDY = f"{ROOT}.1"
LABELS_URL = f"/v1/studies/{STUDY}/labels"
URL = f"{LABELS_URL}/{TASK}"
DEFINITIONS = label_definitions(QuerySettings())
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def labelling_app(seed: Seed, query: QuerySection = SETTINGS.query) -> FastAPI:
    app = build_app(query, Health())
    app.state.parts = build_parts(
        QuerySettings(query=query),
        archive=seed.archive,
        index=seed.index,
        encoder=seed.encoder,
        definitions=DEFINITIONS.values(),
    )
    return app


@pytest.fixture(scope="module")
def received() -> Seed:
    """Three MR studies of five slices and a CT, as they were received."""
    encoder = FakeEncoder()
    seed = Seed(MemoryArchive(), MemoryIndex(encoder.dim), encoder)
    for number in (1, 2, 3):
        seed.study(number, decision=None)
    seed.study(4, decision=None, label=None, modality="CT", body_part="CHEST", slices=1)
    return seed


@pytest.fixture
def studies(received: Seed) -> Seed:
    """Those studies in an archive of the test's own."""
    objects = dict(received.archive.objects)
    return replace(received, archive=MemoryArchive(objects), studies=list(received.studies))


@pytest.fixture
def app(studies: Seed) -> FastAPI:
    return labelling_app(studies)


def written(seed: Seed) -> list[str]:
    return list(seed.archive.list("labels"))


# -- giving and withdrawing ------------------------------------------------------------------
async def test_a_label_is_given_read_changed_and_withdrawn(client, studies: Seed):
    first = await client.put(URL, json={"label": "glioma-like", "comment": "left temporal"})
    assert first.status_code == 201, first.text
    body = first.json()
    assert (body["task"], body["label"], body["study_instance_uid"]) == (TASK, "glioma-like", STUDY)
    assert (body["comment"], body["recorded_by"], body["supersedes"]) == ("left temporal", None, None)
    assert (body["study_revision"], body["sequence"], body["notice"]) == (1, 1, NOTICE)
    assert (await client.get(LABELS_URL)).json() == {
        "study_instance_uid": STUDY,
        "labels": [body],
        "history": None,
        "notice": NOTICE,
    }
    second = await client.put(URL, json={"label": "normal"})
    assert second.status_code == 200
    assert second.json()["supersedes"] == body["label_id"]
    gone = await client.delete(URL)
    assert gone.status_code == 200
    assert (gone.json()["label"], gone.json()["supersedes"]) == (None, second.json()["label_id"])
    after = (await client.get(LABELS_URL, params={"history": "true"})).json()
    assert after["labels"] == []
    assert after["history"] == [body, second.json(), gone.json()]
    # What the archive holds is what was answered, whoever reads it.
    assert [str(record.label_id) for record in LabelStore(studies.archive).history(STUDY)] == [
        entry["label_id"] for entry in after["history"]
    ]


async def test_the_same_put_and_the_same_delete_again_change_nothing(client, studies: Seed):
    said = {"label": "normal", "comment": "seen twice"}
    first, again = await client.put(URL, json=said), await client.put(URL, json=said)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    gone, gone_again = await client.delete(URL), await client.delete(URL)
    assert gone.json() == gone_again.json()
    assert len(written(studies)) == 2
    assert (await client.put(URL, json=said)).status_code == 201


async def test_series_object_and_frame_are_labelled_apart(client, studies: Seed):
    study = studies.studies[0]
    for body in (
        {"label": "glioma-like"},
        {"label": "glioma-like", "series_instance_uid": study.series},
        {"label": "normal", "sop_instance_uid": study.sops[0]},
        {"label": "normal", "sop_instance_uid": study.sops[0], "frame_number": 1},
    ):
        assert (await client.put(URL, json=body)).status_code == 201, body
    found = (await client.get(LABELS_URL)).json()["labels"]
    assert len(found) == 4
    assert {entry["series_instance_uid"] for entry in found} == {None, study.series}
    gone = await client.delete(URL, params={"sop_instance_uid": study.sops[0]})
    assert gone.json()["series_instance_uid"] == study.series
    left = (await client.get(LABELS_URL)).json()["labels"]
    assert [(entry["sop_instance_uid"], entry["frame_number"]) for entry in left] == [
        (study.sops[0], 1),
        (None, None),
        (None, None),
    ]


async def test_many_at_once_leave_one_label_and_one_record(studies: Seed, client):
    answers = await asyncio.gather(*(client.put(URL, json={"label": "normal"}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len(written(studies)) == 1


async def test_who_gave_it_is_the_authenticated_principal_and_nobody_else(studies: Seed):
    class Named(AuthenticationBackend):
        async def authenticate(self, conn):
            name = conn.headers.get("x-test-user")
            return (AuthCredentials(), SimpleUser(name)) if name else None

    app = labelling_app(studies)
    app.add_middleware(AuthenticationMiddleware, backend=Named())
    async with client_of(app) as client:
        said = {"label": "normal"}
        nobody = await client.put(URL, json=said)
        reader = await client.put(URL, json=said, headers={"x-test-user": "reader-7"})
        long, other = [
            (await client.put(URL, json=said, headers={"x-test-user": "r" * 250 + end})).json()["recorded_by"]
            for end in "ab"
        ]
        gone = await client.delete(URL, headers={"x-test-user": "reader-8"})
        claimed = await client.put(URL, json={**said, "recorded_by": "somebody"})
    assert [answer.json()["recorded_by"] for answer in (nobody, reader, gone)] == [None, "reader-7", "reader-8"]
    # Too long a name is cut, and still nobody else's.
    assert long != other
    assert {(len(one), one[:95]) for one in (long, other)} == {(128, "r" * 95)}
    # The same label by another person is a record of its own.
    assert reader.json()["supersedes"] == nobody.json()["label_id"]
    is_problem(claimed, 422, "invalid-request")


async def test_a_late_object_makes_the_same_label_a_new_one(client, studies: Seed):
    await client.put(URL, json={"label": "normal"})
    studies.study(1, decision=None, revision=2, slices=6)
    again = await client.put(URL, json={"label": "normal"})
    assert (again.status_code, again.json()["study_revision"], again.json()["sequence"]) == (200, 2, 2)


# -- pages -----------------------------------------------------------------------------------
async def test_the_labels_of_a_task_come_on_pages_without_gaps(client, studies: Seed):
    for study in studies.studies[:3]:
        assert (await client.put(f"/v1/studies/{study.uid}/labels/{TASK}", json={"label": "normal"})).is_success
        for sop in study.sops:
            url = f"/v1/studies/{study.uid}/labels/{TASK}"
            assert (await client.put(url, json={"label": "normal", "sop_instance_uid": sop})).is_success
    ct = f"/v1/studies/{studies.studies[3].uid}/labels/lung-ct"
    assert (await client.put(ct, json={"label": DEFINITIONS["lung-ct"].classes[0].label})).is_success
    await client.delete(URL)
    seen, cursor = [], None
    while True:
        params = {"limit": 4, **({"cursor": cursor} if cursor else {})}
        page = (await client.get(f"/v1/labels/{TASK}", params=params)).json()
        assert (page["task"], tuple(page["classes"]), page["notice"]) == (TASK, LABELS, NOTICE)
        assert len(page["labels"]) <= 4
        seen += [(entry["study_instance_uid"], entry["sop_instance_uid"]) for entry in page["labels"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    wanted = [(study.uid, sop) for study in studies.studies[:3] for sop in (None, *study.sops)]
    wanted.remove((STUDY, None))
    assert sorted(seen, key=str) == sorted(wanted, key=str)
    whole = (await client.get(f"/v1/labels/{TASK}", params={"limit": 10**9})).json()
    assert len(whole["labels"]) == len(wanted)
    assert len((await client.get("/v1/labels/lung-ct")).json()["labels"]) == 1


async def test_a_page_is_capped(studies: Seed):
    async with client_of(labelling_app(studies, QuerySection(page_size_max=2))) as client:
        for sop in studies.studies[0].sops:
            await client.put(URL, json={"label": "normal", "sop_instance_uid": sop})
        page = (await client.get(f"/v1/labels/{TASK}", params={"limit": 100})).json()
    assert len(page["labels"]) == 2
    assert page["next_cursor"]


async def test_a_cursor_of_ones_own_making_is_422(client):
    # base64 of no place, of a path, and of a place of another task
    for cursor in ("x", "====", "é", "bm90aGluZw==", "Li4vLi4veC8=", "MS4yL2x1bmctY3Qvc3R1ZHkv"):
        is_problem(await client.get(f"/v1/labels/{TASK}", params={"cursor": cursor}), 422, "invalid-cursor")


# -- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"label": "Doe^Jane"}, 422, "unknown-class"),
        ({"label": ""}, 422, "invalid-request"),
        ({"label": "n" * 200}, 422, "invalid-request"),
        ({"label": None}, 422, "invalid-request"),
        ({}, 422, "invalid-request"),
        ([], 422, "invalid-request"),
        ({"label": "normal", "patient": "Doe^Jane"}, 422, "invalid-request"),
        ({"label": "normal", "comment": "c" * (COMMENT_MAX + 1)}, 422, "invalid-request"),
        ({"label": "normal", "comment": "two\nlines"}, 422, "invalid-request"),
        ({"label": "normal", "frame_number": 1}, 422, "invalid-request"),
        ({"label": "normal", "sop_instance_uid": f"{STUDY}.1.0", "frame_number": 0}, 422, "invalid-request"),
        ({"label": "normal", "sop_instance_uid": f"{STUDY}.1.0", "frame_number": 2}, 404, "unknown-frame"),
        ({"label": "normal", "sop_instance_uid": "1.2.3"}, 404, "unknown-instance"),
        ({"label": "normal", "sop_instance_uid": f"{ROOT}.2.1.0"}, 404, "unknown-instance"),
        ({"label": "normal", "series_instance_uid": "1.2.3"}, 404, "unknown-series"),
        ({"label": "normal", "series_instance_uid": "../../etc"}, 422, "invalid-request"),
        ({"label": "normal", "sop_instance_uid": "1/2"}, 422, "invalid-request"),
        ({"label": "normal", "sop_instance_uid": "1.2\n"}, 422, "invalid-request"),
    ],
)
async def test_a_label_that_fits_nothing_is_refused_and_nothing_is_written(client, studies: Seed, body, status, kind):
    refused = await client.put(URL, json=body)
    is_problem(refused, status, kind)
    assert "Doe" not in refused.text
    assert written(studies) == []


async def test_unknown_studies_and_tasks_are_404(client, studies: Seed):
    said = {"label": "normal"}
    is_problem(await client.put(f"/v1/studies/1.2.3/labels/{TASK}", json=said), 404, "unknown-study")
    is_problem(await client.put(f"{LABELS_URL}/unheard-of", json=said), 404, "unknown-task")
    is_problem(await client.get("/v1/studies/1.2.3/labels"), 404, "unknown-study")
    is_problem(await client.get("/v1/labels/unheard-of"), 404, "unknown-task")
    is_problem(await client.delete(URL), 404, "unknown-label")
    is_problem(await client.delete(f"{LABELS_URL}/unheard-of"), 404, "unknown-label")
    is_problem(await client.delete(f"/v1/studies/1.2.3/labels/{TASK}"), 404, "unknown-label")
    is_problem(await client.delete(URL, params={"frame_number": 1}), 422, "invalid-request")
    is_problem(await client.post(URL, json=said), 405, "method-not-allowed")
    assert written(studies) == []


async def test_a_study_of_another_modality_takes_no_label_of_the_task(client, studies: Seed):
    url = f"/v1/studies/{studies.studies[3].uid}/labels/{TASK}"
    is_problem(await client.put(url, json={"label": "normal"}), 422, "not-taken")


async def test_a_study_of_several_patients_takes_no_label(client, studies: Seed):
    key = f"manifests/{STUDY}/1.json"
    manifest = json.loads(studies.archive.get(key))
    studies.archive.put(key, json.dumps({**manifest, "mixed_patients": True}).encode())
    is_problem(await client.put(URL, json={"label": "normal"}), 409, "mixed-patients")


@pytest.mark.parametrize(
    "study", ["abc", "1.2.x", "1..2", "%2e%2e", "1.2%00", "1" * 65, "..%2f..%2fetc", "1.2%2f..%2f3", "1.2%0a"]
)
async def test_a_path_that_is_no_uid_is_refused(client, studies: Seed, study: str):
    for method, path in (("PUT", f"/{TASK}"), ("DELETE", f"/{TASK}"), ("GET", "")):
        url = client.base_url.copy_with(raw_path=f"/v1/studies/{study}/labels{path}".encode())
        refused = await client.request(method, url, json={"label": "normal"})
        assert refused.status_code in (404, 405, 422), refused.text
        assert refused.headers["content-type"] == "application/problem+json"
    assert written(studies) == []


@pytest.mark.parametrize("task", ["..", "%2e%2e", "Brain-MR", "brain_mr", "a--b", "x" * 65, "..%2fx", "brain-mr%0a"])
async def test_a_task_that_is_no_name_is_refused(client, studies: Seed, task: str):
    for method, path in (
        ("PUT", f"{LABELS_URL}/{task}"),
        ("DELETE", f"{LABELS_URL}/{task}"),
        ("GET", f"/v1/labels/{task}"),
    ):
        refused = await client.request(
            method, client.base_url.copy_with(raw_path=path.encode()), json={"label": "normal"}
        )
        assert refused.status_code in (404, 405, 422), refused.text
    assert written(studies) == []


async def test_a_body_that_is_too_large_or_no_json_is_refused(studies: Seed):
    async with client_of(labelling_app(studies, QuerySection(body_max_bytes=1000))) as client:
        head = {"content-type": "application/json"}
        large = json.dumps({"label": "normal", "comment": "c" * 2000}).encode()
        is_problem(await client.put(URL, content=large, headers=head), 413, "too-large")

        async def endless():
            for _ in range(1000):
                yield b" " * 1000

        is_problem(await client.put(URL, content=endless(), headers=head), 413, "too-large")
        for content in (b"", b"{", b"\xff\xfe", b'"\\ud800"', b"[" * 900, b'{"label": NaN}'):
            is_problem(await client.put(URL, content=content, headers=head), 422, "invalid-request")
    assert written(studies) == []


async def test_limits_on_records_and_places(studies: Seed):
    settings = QuerySection(label_records_max=2, label_places_max=2)
    async with client_of(labelling_app(studies, settings)) as client:
        for label in LABELS[:2]:
            await client.put(URL, json={"label": label})
        is_problem(await client.put(URL, json={"label": LABELS[2]}), 409, "too-many-labels")
        sops = studies.studies[0].sops
        await client.put(URL, json={"label": "normal", "sop_instance_uid": sops[0]})
        refused = await client.put(URL, json={"label": "normal", "sop_instance_uid": sops[1]})
        is_problem(refused, 409, "too-many-labels")
        assert (await client.delete(URL)).status_code == 200


async def test_a_service_may_be_set_up_not_to_take_labels(studies: Seed):
    async with client_of(labelling_app(studies)) as client:
        await client.put(URL, json={"label": "normal"})
    async with client_of(labelling_app(studies, QuerySection(writable=False))) as client:
        is_problem(await client.put(URL, json={"label": "glioma-like"}), 403, "read-only")
        is_problem(await client.delete(URL), 403, "read-only")
        assert (await client.get(LABELS_URL)).json()["labels"][0]["label"] == "normal"


# -- what goes wrong elsewhere ---------------------------------------------------------------
async def test_a_label_outlives_its_task_and_its_study_and_can_be_withdrawn(studies: Seed, client):
    await client.put(URL, json={"label": "normal"})
    for key in list(studies.archive.list(f"manifests/{STUDY}")):
        del studies.archive.objects[key]
    app = labelling_app(studies)
    app.state.parts = replace(app.state.parts, definitions={})
    async with client_of(app) as without:
        is_problem(await without.get(LABELS_URL), 404, "unknown-study")
        assert (await without.delete(URL)).json()["label"] is None


async def test_a_damaged_record_is_told_and_mended_by_a_new_label(client, studies: Seed):
    await client.put(URL, json={"label": "normal"})
    studies.archive.put(written(studies)[0], b'{"label": "Doe^Jane"}')
    for url in (LABELS_URL, f"/v1/labels/{TASK}"):
        refused = await client.get(url)
        is_problem(refused, 500, "archive-object-corrupt")
        assert "Doe" not in refused.text
    assert (await client.put(URL, json={"label": "normal"})).json()["sequence"] == 2
    assert (await client.get(LABELS_URL)).json()["labels"][0]["label"] == "normal"


async def test_an_archive_that_is_away_is_503_and_no_label_is_promised(client, studies: Seed, monkeypatch):
    def away(*_: object) -> None:
        raise ArchiveUnavailableError("/srv/archive: no space left on device")

    monkeypatch.setattr(type(studies.archive), "put", away)
    refused = await client.put(URL, json={"label": "normal"})
    is_problem(refused, 503, "archive-unavailable")
    assert "/srv" not in refused.text
    assert int(refused.headers["retry-after"]) > 0
    assert (await client.get(LABELS_URL)).json()["labels"] == []


# -- privacy ---------------------------------------------------------------------------------
async def test_answers_records_logs_and_metrics_hold_no_identity_and_no_comment(client, studies: Seed, caplog):
    secrets = [PATIENT_NAME, PATIENT_ID, CALLING_AE, *{study.pseudonym for study in studies.studies}]
    comment = f"comment-{uuid4().hex}"
    with caplog.at_level("DEBUG"):
        answers = [
            await client.put(URL, json={"label": "normal", "comment": comment}),
            await client.get(f"{LABELS_URL}?history=true"),
            await client.get(f"/v1/labels/{TASK}"),
            await client.put(URL, json={"label": PATIENT_NAME}),
            await client.put(URL, json={"label": "normal", "sop_instance_uid": PATIENT_ID}),
        ]
    metrics = (await client.get("/metrics")).text
    texts = [answer.text for answer in answers] + [metrics, caplog.text]
    texts += [studies.archive.get(key).decode() for key in written(studies)]
    assert not [secret for secret in secrets for text in texts if secret in text]
    assert comment not in metrics + caplog.text
    assert 'similis_query_labels_total{action="given"}' in metrics
    assert 'route="/v1/studies/{study_instance_uid}/labels/{task}",status="201"' in metrics
    assert 'method="PUT"' in metrics


# -- which tasks -----------------------------------------------------------------------------
def test_installed_tasks_and_those_named_in_the_settings_may_be_labelled(tmp_path):
    new = {
        "name": "knee-mr",
        "title": "Knee",
        "modalities": ["MR"],
        "classes": [{"label": "torn", "is_finding": True}, {"label": "whole", "is_finding": False}],
    }
    path = tmp_path / "knee.yaml"
    path.write_text(yaml.safe_dump(new))
    own = tmp_path / "tasks" / "brain-mr"
    own.mkdir(parents=True)
    (own / "task.yaml").write_text(yaml.safe_dump({**new, "name": "brain-mr"}))
    found = label_definitions(
        QuerySettings(
            query=QuerySection(label_definitions=(path,)), vision=VisionSettings(tasks_dir=tmp_path / "tasks")
        )
    )
    assert set(found) == {*DEFINITIONS, "knee-mr"}
    assert found["knee-mr"] == TaskDefinition.model_validate(new)
    assert found["brain-mr"].title == "Knee"
    path.write_text("name: [")
    with pytest.raises(ConfigurationError, match=r"knee\.yaml"):
        label_definitions(QuerySettings(query=QuerySection(label_definitions=(path,))))


# -- whatever is sent ------------------------------------------------------------------------
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)
BODIES = st.dictionaries(
    st.sampled_from(["label", "series_instance_uid", "sop_instance_uid", "frame_number", "comment", "x"]),
    st.one_of(ANY_JSON, st.just("normal"), st.just(f"{STUDY}.1.0"), st.just(f"{STUDY}.1")),
    max_size=5,
)
PARTS = st.one_of(
    st.text(alphabet="0123456789./%-", max_size=40), st.text(alphabet=st.characters(codec="utf-8"), max_size=40)
)


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
@given(st.one_of(BODIES, ANY_JSON))
def test_bodies_of_labels(app: FastAPI, body: object):
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    check(answer(app, "PUT", URL, content=content, headers={"content-type": "application/json"}))


@FUZZ
@given(PARTS, PARTS, st.sampled_from(["PUT", "DELETE", "GET"]), PARTS)
def test_paths_and_parameters_of_labels(app: FastAPI, study: str, task: str, method: str, value: str):
    base = "http://localhost"
    for template in ("/v1/studies/{}/labels/{}", "/v1/studies/{}/labels?history={}", "/v1/labels/{}?cursor={}"):
        path = template.format(quote(study, safe="/%"), quote(task, safe="/%"))
        url = httpx.URL(base).copy_with(raw_path=path.encode())
        check(answer(app, method, url, json={"label": "normal"} if method == "PUT" else None))
    check(answer(app, "DELETE", URL, params={"sop_instance_uid": study, "frame_number": value}))


def test_the_document_describes_the_label_routes_with_examples(app: FastAPI):
    document = app.openapi()
    paths = document["paths"]
    assert set(paths["/v1/studies/{study_instance_uid}/labels/{task}"]) == {"put", "delete"}
    assert set(paths["/v1/studies/{study_instance_uid}/labels"]) == set(paths["/v1/labels/{task}"]) == {"get"}
    schemas = document["components"]["schemas"]
    for name in ("LabelRequest", "StudyLabel"):
        assert schemas[name]["examples"]
        assert "must hold no identity" in schemas[name]["properties"]["comment"]["description"]
    assert {"200", "201", "403", "404", "409", "413", "422"} <= set(
        paths["/v1/studies/{study_instance_uid}/labels/{task}"]["put"]["responses"]
    )
