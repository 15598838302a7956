"""Maps on demand: asked once, kept, sent to the explainer, and told of from the archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from light_box_seed import HEAD, LABELS, TASK, FakeEncoder, Seed

from services.query.explanations import Explanations
from services.query.schema import TaskInfo
from services.query.settings import QuerySection, QuerySettings
from shared import events
from shared.archive import LocalArchive, explanation_request_key
from shared.errors import BrokerUnavailableError
from shared.events import Decision, Event, ExplanationMap, ExplanationRequested, StudyDiagnosed, StudyExplained
from shared.explanation_failure import ExplanationFailure
from shared.vector_index.memory import MemoryIndex
from shared.vision.tasks import BUILT_IN, load_definition
from tests.services.query.conftest import SETTINGS, client_of, ready_app

INFO = TaskInfo(name=TASK, title="Brain MR", labels=LABELS, findings=LABELS[1:], abstain_below=0.5, head_id=HEAD)


class Outgoing:
    """Events that went out; or the broker is away."""

    def __init__(self) -> None:
        self.events: list[ExplanationRequested] = []
        self.away = False

    async def publish(self, topic: str, event: Event) -> None:
        if self.away:
            raise BrokerUnavailableError("kafka-7.internal:9092 does not answer")
        assert topic == "similis.explanation.requested.v1"
        assert isinstance(event, ExplanationRequested)
        self.events.append(event)


@pytest.fixture
def outgoing() -> Outgoing:
    return Outgoing()


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    encoder = FakeEncoder()
    seed = Seed(LocalArchive(tmp_path), MemoryIndex(encoder.dim), encoder)
    seed.study(1, label="glioma-like", decision=Decision.FINDING)
    seed.study(2, label=None, decision=Decision.ABSTAINED)
    seed.study(3, label=None, decision=None)
    return seed


def asking_app(seed: Seed, outgoing: Outgoing, settings: QuerySettings = SETTINGS) -> FastAPI:
    app = ready_app(seed, settings)
    parts = app.state.parts
    app.state.parts = replace(parts, tasks=(INFO,), explanations=Explanations(seed.archive, outgoing, 3))
    return app


@pytest.fixture
async def client(seed: Seed, outgoing: Outgoing) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(asking_app(seed, outgoing)) as opened:
        yield opened


def diagnosis(seed: Seed, place: int = 0) -> StudyDiagnosed:
    found = seed.studies[place].diagnosed
    assert found is not None
    return found


def body(seed: Seed, place: int = 0, **more: object) -> dict[str, object]:
    return {"study_instance_uid": seed.studies[place].uid, "task": TASK, **more}


def answered(seed: Seed, asked: ExplanationRequested) -> None:
    """As the explainer leaves it."""
    diagnosed = diagnosis(seed)
    sop = seed.studies[0].sops[0]
    stem = f"explanations/{diagnosed.study_instance_uid}/1/{TASK}/{sop}-1-{asked.event_id}"
    made = ExplanationMap(
        series_instance_uid=seed.studies[0].series,
        sop_instance_uid=sop,
        frame_number=1,
        target_label=asked.label or "",
        map_key=f"{stem}.npy",
        overlay_key=f"{stem}.png",
        record_key=f"{stem}.json",
        method="vit-cx",
        mode="exact",
        seed=1,
        mask_count=3,
        value_min=0.0,
        value_max=0.1,
    )
    explained = StudyExplained(
        event_id=StudyExplained.identify(diagnosed, "vit-cx", asked.event_id),
        occurred_at=events.now(),
        study_instance_uid=diagnosed.study_instance_uid,
        revision=1,
        task=TASK,
        label=asked.label or "",
        maps=(made,),
        backbone_id=diagnosed.backbone_id,
        head_id=diagnosed.head_id or "",
        duration_s=1.0,
        request_id=asked.event_id,
    )
    key = explanation_request_key(diagnosed.study_instance_uid, 1, TASK, asked.event_id, "explained")
    seed.archive.put(key, explained.model_dump_json().encode())
    seed.archive.put(made.overlay_key, b"a picture")


async def test_a_request_waits_for_the_explainer(client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing) -> None:
    answer = await client.post("/v1/explanations", json=body(seed))

    assert answer.status_code == 202, answer.text
    (asked,) = outgoing.events
    told = answer.json()
    assert (told["state"], told["label"], told["maps"]) == ("waiting", "glioma-like", [])
    assert told["notice"] == "research use only"
    assert UUID(told["request_id"]) == asked.event_id
    assert asked.diagnosis_event_id == diagnosis(seed).event_id
    assert (await client.get(told["url"])).json() == told


async def test_frames_and_another_class_can_be_asked_for(
    client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing
) -> None:
    frames = [{"sop_instance_uid": sop} for sop in (*seed.studies[0].sops[:2], seed.studies[0].sops[0])]

    answer = await client.post("/v1/explanations", json=body(seed, label="normal", frames=frames))

    assert answer.status_code == 202
    (asked,) = outgoing.events
    assert asked.label == "normal"
    assert [frame.sop_instance_uid for frame in asked.frames] == list(seed.studies[0].sops[:2])
    assert {frame.series_instance_uid for frame in asked.frames} == {seed.studies[0].series}


async def test_asking_again_is_the_same_request(client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing) -> None:
    first, again = [(await client.post("/v1/explanations", json=body(seed))).json() for _ in range(2)]

    assert first == again
    assert outgoing.events[0] == outgoing.events[1]


async def test_what_is_explained_is_told_and_not_asked_for_again(
    client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing
) -> None:
    told = (await client.post("/v1/explanations", json=body(seed, label="normal"))).json()
    answered(seed, outgoing.events[0])

    again = await client.post("/v1/explanations", json=body(seed, label="normal"))

    assert again.status_code == 200
    assert len(outgoing.events) == 1
    (made,) = again.json()["maps"]
    assert (made["target_label"], made["requested"], made["reliability"]) == ("normal", True, "unknown")
    assert (await client.get(told["url"])).json()["state"] == "explained"
    assert (await client.get(made["overlay_url"])).content == b"a picture"
    shown = (await client.get(f"/v1/studies/{seed.studies[0].uid}")).json()["maps"]
    assert made in shown


async def test_a_failure_is_told_and_may_be_asked_for_again(
    client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing
) -> None:
    told = (await client.post("/v1/explanations", json=body(seed))).json()
    (asked,) = outgoing.events
    failure = ExplanationFailure(request_id=asked.event_id, asked_at=asked.occurred_at, reason="no map varies")
    key = explanation_request_key(asked.study_instance_uid, 1, TASK, asked.event_id, "failed")
    seed.archive.put(key, failure.model_dump_json().encode())

    failed = (await client.get(told["url"])).json()
    assert (failed["state"], failed["reason"]) == ("failed", "no map varies")

    again = await client.post("/v1/explanations", json=body(seed))

    assert (again.status_code, again.json()["state"]) == (202, "waiting")
    assert outgoing.events[1].event_id == asked.event_id
    assert outgoing.events[1].occurred_at > asked.occurred_at
    assert (await client.get(told["url"])).json()["state"] == "waiting"


async def test_without_a_broker_the_client_may_try_again_and_learns_no_host(
    client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing
) -> None:
    outgoing.away = True

    refused = await client.post("/v1/explanations", json=body(seed))

    assert refused.status_code == 503
    assert refused.json()["type"].endswith("broker-unavailable")
    assert "kafka-7" not in refused.text
    assert "Retry-After" in refused.headers
    outgoing.away = False
    assert (await client.post("/v1/explanations", json=body(seed))).status_code == 202


@pytest.mark.parametrize(
    ("place", "more", "status", "problem"),
    [
        (0, {"label": "pneumonia-like"}, 422, "unknown-class"),
        (0, {"frames": [{"sop_instance_uid": "1.2.3"}]}, 422, "unknown-frame"),
        (0, {"frames": [{"sop_instance_uid": "2.25.4711.1.1.0", "frame_number": 2}]}, 422, "unknown-frame"),
        (0, {"frames": [{"sop_instance_uid": "2.25.4711.1.1.0"}] * 9}, 422, "too-many-frames"),
        (0, {"task": "lung-ct"}, 409, "not-diagnosed"),
        (0, {"study_instance_uid": "1.2.3"}, 404, "unknown-study"),
        (0, {"study_instance_uid": "../../etc/passwd"}, 422, "invalid-request"),
        (0, {"colour": "red"}, 422, "invalid-request"),
        (1, {}, 409, "no-class"),
        (2, {}, 409, "not-diagnosed"),
    ],
)
async def test_what_cannot_be_explained_is_refused(
    client: httpx.AsyncClient,
    seed: Seed,
    outgoing: Outgoing,
    place: int,
    more: dict[str, object],
    status: int,
    problem: str,
) -> None:
    answer = await client.post("/v1/explanations", json=body(seed, place) | more)

    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, problem)
    assert not outgoing.events
    assert not list(seed.archive.list("explanations"))


async def test_an_abstained_study_is_explained_for_a_class_that_is_named(client: httpx.AsyncClient, seed: Seed) -> None:
    assert (await client.post("/v1/explanations", json=body(seed, 1, label="normal"))).status_code == 202


async def test_a_study_takes_no_end_of_requests(client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing) -> None:
    statuses = [(await client.post("/v1/explanations", json=body(seed, label=label))).status_code for label in LABELS]

    assert statuses == [202, 202, 202, 409]
    assert (await client.post("/v1/explanations", json=body(seed, label=LABELS[0]))).status_code == 202
    assert len(outgoing.events) == 4


async def test_the_order_of_frames_makes_no_other_request(
    client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing
) -> None:
    frames = [{"sop_instance_uid": sop} for sop in seed.studies[0].sops[:3]]

    one, other = [
        (await client.post("/v1/explanations", json=body(seed, frames=order))).json()
        for order in (frames, frames[::-1])
    ]

    assert one["request_id"] == other["request_id"]


async def test_an_answer_for_another_class_is_not_told_as_this_ones(
    client: httpx.AsyncClient, seed: Seed, outgoing: Outgoing
) -> None:
    told = (await client.post("/v1/explanations", json=body(seed, label="normal"))).json()
    answered(seed, outgoing.events[0].model_copy(update={"label": "glioma-like"}))

    assert (await client.get(told["url"])).json()["state"] == "waiting"


async def test_frames_that_the_task_does_not_judge_are_refused(seed: Seed, outgoing: Outgoing) -> None:
    app = asking_app(seed, outgoing)
    definition = load_definition(BUILT_IN / TASK).model_copy(update={"modalities": ("CT",)})
    app.state.parts = replace(app.state.parts, definitions={TASK: definition})
    async with client_of(app) as client:
        answer = await client.post(
            "/v1/explanations", json=body(seed, frames=[{"sop_instance_uid": seed.studies[0].sops[0]}])
        )
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (422, "not-taken")
    assert not outgoing.events


async def test_an_unknown_request_is_not_found(client: httpx.AsyncClient, seed: Seed) -> None:
    url = f"/v1/studies/{seed.studies[0].uid}/explanation-requests/5a1c9d1e-2c1b-5b7e-9a53-1d2f7a3b4c5d"
    assert (await client.get(url)).status_code == 404


@pytest.mark.parametrize(("writable", "broker"), [(True, True), (True, False), (False, True)])
async def test_info_says_whether_maps_and_labels_are_taken(
    seed: Seed, outgoing: Outgoing, writable: bool, broker: bool
) -> None:
    app = ready_app(seed, QuerySettings(query=QuerySection(writable=writable, decode_workers=0)))
    if broker:
        app.state.parts = replace(app.state.parts, explanations=Explanations(seed.archive, outgoing, 3))
    async with client_of(app) as client:
        info = (await client.get("/v1/info")).json()
    assert (info["takes_labels"], info["takes_map_requests"]) == (writable, writable and broker)


async def test_a_read_only_service_takes_no_request(seed: Seed, outgoing: Outgoing) -> None:
    settings = QuerySettings(query=QuerySection(writable=False))
    async with client_of(asking_app(seed, outgoing, settings)) as client:
        assert (await client.post("/v1/explanations", json=body(seed))).status_code == 403
    assert not outgoing.events
