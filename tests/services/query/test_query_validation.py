"""GET /v1/validation: what the tasks' own files say, null where nothing was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest
from light_box_seed import Seed

from services.query.settings import QuerySection, QuerySettings
from shared.settings import VisionSettings
from shared.vision.curves import CURVES_FILE, Curves, ReliabilityBin, RocCurve
from shared.vision.tasks import BUILT_IN
from tests.services.query.conftest import client_of, ready_app

TASK = "brain-mr"


@pytest.fixture
def tasks_dir(tmp_path: Path) -> Path:
    shutil.copytree(BUILT_IN / TASK, tmp_path / "tasks" / TASK)
    (tmp_path / "tasks" / TASK / CURVES_FILE).unlink(missing_ok=True)
    (tmp_path / "tasks" / TASK / "retrieval.json").unlink(missing_ok=True)
    return tmp_path / "tasks"


def asking(seed: Seed, tasks_dir: Path | None = None) -> httpx.AsyncClient:
    settings = QuerySettings(query=QuerySection(), vision=VisionSettings(tasks_dir=tasks_dir))
    return client_of(ready_app(seed, settings))


def card(tasks_dir: Path) -> dict:
    return json.loads((tasks_dir / TASK / "model-card.json").read_text())


async def test_every_installed_task_has_a_report_that_agrees_with_its_card_and_says_phantom(empty: Seed):
    async with asking(empty) as client:
        tasks = (await client.get("/v1/validation")).json()["tasks"]
        assert [task["name"] for task in tasks] == ["blood-smear", "brain-mr", "lung-ct", "retina-fundus"]
        for task in tasks:
            said = (await client.get(f"/v1/validation/{task['name']}")).json()
            kept = json.loads((BUILT_IN / task["name"] / "model-card.json").read_text())
            assert said["head_id"] == kept["head_id"] == task["head_id"]
            assert said["confusion"] == {
                "labels": kept["labels"],
                "counts": kept["evaluations"][0]["study"]["confusion"],
            }
            assert sum(map(sum, said["confusion"]["counts"])) == said["cases"]
            assert [one["title"] for one in said["sets"]] == [one["title"] for one in kept["evaluations"]]
            assert said["phantom"] is True
            assert "Phantom results" in said["caution"]
            assert said["notice"] == "research use only"
            assert said["commands"]["roc"] == f"similis evaluate {task['name']} --out OUT"
            assert said["commands"]["confusion"] == kept["rebuild"]


async def test_what_was_not_measured_is_null_and_the_command_that_makes_it_is_named(empty: Seed, tasks_dir: Path):
    async with asking(empty, tasks_dir) as client:
        said = (await client.get(f"/v1/validation/{TASK}")).json()
    assert (said["roc"], said["calibration"], said["retrieval"]) == (None, None, None)
    assert said["commands"]["retrieval"] == f"similis evaluate retrieval {TASK}"
    assert said["commands"]["calibration"] == f"similis evaluate {TASK} --out OUT"


async def test_curves_are_those_that_training_keeps_and_only_of_this_head(empty: Seed, tasks_dir: Path):
    roc = RocCurve(label="normal", auroc=1.0, points=((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
    bins = (ReliabilityBin(confidence=0.9, accuracy=0.75, count=4, low=0.3, high=0.95),)
    kept = Curves(head_id=card(tasks_dir)["head_id"], source="Fresh", roc=(roc,), calibration=bins)
    path = tasks_dir / TASK / CURVES_FILE
    path.write_text(kept.model_dump_json())
    async with asking(empty, tasks_dir) as client:
        said = (await client.get(f"/v1/validation/{TASK}")).json()
        assert said["roc"] == [{"label": "normal", "auroc": 1.0, "points": [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]}]
        assert [(one["confidence"], one["accuracy"], one["count"]) for one in said["calibration"]] == [(0.9, 0.75, 4)]
        assert said["curves_source"] == "Fresh"
        path.write_text(kept.model_copy(update={"head_id": "other@000000000000"}).model_dump_json())
        assert (await client.get(f"/v1/validation/{TASK}")).json()["roc"] is None
        path.write_text("{}")
        assert (await client.get(f"/v1/validation/{TASK}")).json()["roc"] is None


async def test_figures_of_the_search_are_told_by_space(empty: Seed, tasks_dir: Path):
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    averages = {"micro": interval, "macro": interval}
    space = {
        "p_at": {"1": averages, "5": averages},
        "map_at_5": averages,
        "mmv_at_5": averages,
        "votes": [{"share_from": 0.5, "share_to": 1, "right": 0.8, "studies": 10, "low": 0.5, "high": 0.95}],
        "ties": 1,
        "shortcuts": [],
        "protocols": [],
    }
    about = card(tasks_dir)
    report = {
        "notice": "research use only",
        "task": TASK,
        "title": "",
        "phantom": True,
        "head_id": about["head_id"],
        "backbone_id": about["backbone_id"],
        "precision": "float32",
        "labels": about["labels"],
        "headline": "patient-disjoint",
        "spaces": {"visual": space, TASK: space},
        "gain_p_at_5": interval,
        "studies": 20,
        "training_studies": 40,
        "sources": ["a"],
        "sources_never_seen": ["b"],
        "contrast": 4,
        "seed": 0,
        "bootstraps": 100,
        "command": "similis evaluate retrieval",
    }
    (tasks_dir / TASK / "retrieval.json").write_text(json.dumps(report))
    async with asking(empty, tasks_dir) as client:
        said = (await client.get(f"/v1/validation/{TASK}")).json()["retrieval"]
    assert [one["space"] for one in said["spaces"]] == ["visual", TASK]
    assert said["spaces"][0]["p_at"]["5"]["macro"] == interval
    assert said["spaces"][0]["votes"][0]["right"] == 0.8
    assert (said["phantom"], said["studies"]) == (True, 20)


@pytest.mark.parametrize("name", ["no-such-task", "..", "brain-mr%2F..%2Fbrain-mr"])
async def test_another_task_is_a_problem_not_a_file(empty: Seed, tasks_dir: Path, name: str):
    async with asking(empty, tasks_dir) as client:
        assert (await client.get(f"/v1/validation/{name}")).status_code in {404, 422}
