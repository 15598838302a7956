"""Hosts, corrupt objects, and documents of another model."""

from __future__ import annotations

import json

import pytest
from light_box_seed import TASK, Seed

from services.query.catalogue import Catalogue
from services.query.middleware import allowed_hosts
from shared.events import Decision
from tests.services.query.conftest import client_of, ready_app


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.test", 421),
        ("", 421),
        ("a@localhost", 421),
    ],
)
async def test_only_allowed_hosts_are_answered(empty: Seed, host: str, status: int):
    async with client_of(ready_app(empty)) as client:
        answer = await client.get("/v1/studies", headers={"host": host})
    assert answer.status_code == status
    if status == 421:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"].endswith(":unknown-host")


def test_every_host_is_answered_beyond_the_loopback_unless_set(caplog):
    assert allowed_hosts("0.0.0.0", ()) == {"*"}
    assert "ALLOWED_HOSTS" in caplog.text
    assert allowed_hosts("0.0.0.0", ("Box.local",)) == {"box.local"}


async def test_a_frame_that_is_not_what_was_received_is_not_shown(empty: Seed):
    study = empty.study(1)
    empty.archive.put(f"instances/{study.uid}/{study.series}/{study.sops[0]}.dcm", study.files[1])
    async with client_of(ready_app(empty)) as client:
        answer = await client.get(f"/v1/studies/{study.uid}/instances/{study.sops[0]}/frames/1.png")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:similis:problem:archive-object-corrupt")


@pytest.mark.parametrize("field", ["label", "head_id", "backbone_id"])
def test_maps_of_another_model_are_not_shown(empty: Seed, field: str):
    study = empty.study(1, label="glioma-like", decision=Decision.FINDING, explained=True)
    key = f"diagnoses/{study.uid}/1/{TASK}.json"
    empty.archive.put(key, json.dumps({**json.loads(empty.archive.get(key)), field: "other"}).encode())
    assert Catalogue(empty.archive, 0).study(study.uid).explanations == ()


def test_an_overwritten_diagnosis_reaches_the_list_after_the_recheck(empty: Seed):
    now = [100.0]
    catalogue = Catalogue(empty.archive, 0, 30, clock=lambda: now[0])
    empty.study(1, label="glioma-like", decision=Decision.FINDING)
    catalogue.studies()
    empty.study(1, label="normal", decision=Decision.NO_FINDING)
    now[0] += 31
    assert catalogue.studies()[0].diagnoses[0].label == "normal"
