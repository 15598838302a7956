"""Candidates, promotion and roll-back. Whatever dies in between, one whole version is live."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from services.training.versions import keep_candidate, promote, rollback, task_folders, versions_of
from shared.errors import ConfigurationError
from shared.vision.heads import LinearHead
from shared.vision.live_version import read_live
from shared.vision.tasks import load_task, load_tasks, task_names

BACKBONE = "net@1"
ROOT = Path(__file__).resolve().parents[3]


def head(bias: float, backbone: str = BACKBONE) -> LinearHead:
    return LinearHead(
        task="shapes",
        labels=("normal", "spot"),
        weight=np.zeros((2, 4), np.float32),
        bias=np.array([0, bias], np.float32),
        feature_mean=np.zeros(4, np.float32),
        feature_scale=np.ones(4, np.float32),
        temperature=1.0,
        backbone_id=backbone,
    )


def write(folder: Path, one: LinearHead, **card: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    one.save(folder / "head.safetensors")
    definition = {
        "name": "shapes",
        "title": "Shapes",
        "modalities": ["MR"],
        "classes": [{"label": "normal", "is_finding": False}, {"label": "spot", "is_finding": True}],
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(definition))
    values = {
        "head_id": one.id,
        "head_sha256": hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest(),
        "definition_sha256": hashlib.sha256((folder / "task.yaml").read_bytes()).hexdigest(),
        "calibration": {"temperature": 1.0},
        **card,
    }
    (folder / "model-card.json").write_text(json.dumps(values))


def keep(task_folder: Path, bias: float, *, backbone: str = BACKBONE, **card: object) -> str:
    task_folder.mkdir(parents=True, exist_ok=True)
    return keep_candidate(task_folder, lambda folder: write(folder, head(bias, backbone), **card))


def live_bias(task_folder: Path) -> float:
    return float(load_task(task_folder).head.bias[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tasks" / "shapes"


def test_a_candidate_is_kept_and_not_live(folder: Path):
    write(folder, head(0.0))
    version = keep(folder, 1.0)
    assert live_bias(folder) == 0.0
    assert [(kept.version, kept.is_live) for kept in versions_of(folder, BACKBONE)] == [(None, True), (version, False)]
    assert list(task_folders(folder.parent)) == [folder]


def test_a_task_without_a_promoted_version_is_not_loaded(folder: Path):
    keep(folder, 1.0)
    assert task_names(folder.parent) == ()
    assert load_tasks(folder.parent, BACKBONE) == ()
    promote(folder, keep(folder, 1.0), backbone=BACKBONE)
    assert task_names(folder.parent) == ("shapes",)
    assert [task.head.id for task in load_tasks(folder.parent, BACKBONE)] == [head(1.0).id]


def test_the_same_content_is_the_same_version(folder: Path):
    assert keep(folder, 1.0) == keep(folder, 1.0)
    assert keep(folder, 1.0) != keep(folder, 1.0, title="another card")
    assert keep(folder, 1.0) != keep(folder, 2.0)
    assert len(versions_of(folder, BACKBONE)) == 3


def test_promotions_are_undone_in_turn_down_to_the_installed_task(folder: Path):
    write(folder, head(0.0))
    first, second = keep(folder, 1.0), keep(folder, 2.0)
    seen = []
    for step in (
        lambda: promote(folder, first, backbone=BACKBONE),
        lambda: promote(folder, second, backbone=BACKBONE),
        lambda: promote(folder, second, backbone=BACKBONE),  # again: nothing changes
        lambda: rollback(folder, backbone=BACKBONE),
        lambda: rollback(folder, backbone=BACKBONE),
    ):
        step()
        seen.append(live_bias(folder))
    assert seen == [1.0, 2.0, 2.0, 1.0, 0.0]
    with pytest.raises(ConfigurationError, match="nothing to go back to"):
        rollback(folder, backbone=BACKBONE)


def test_the_first_version_of_a_new_task_cannot_be_rolled_back(folder: Path):
    promote(folder, keep(folder, 1.0), backbone=BACKBONE)
    with pytest.raises(ConfigurationError, match="its first version is live"):
        rollback(folder, backbone=BACKBONE)
    assert live_bias(folder) == 1.0


def test_the_audit_tells_what_and_when_and_nobodys_name(folder: Path):
    write(folder, head(0.0))
    version = keep(folder, 1.0)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    promote(folder, version, backbone=BACKBONE, clock=lambda: at)
    rollback(folder, backbone=BACKBONE, clock=lambda: at)
    promoted, back = read_live(folder).audit
    card = (folder / "versions" / version / "model-card.json").read_bytes()
    assert (promoted.action, promoted.version, promoted.replaced, promoted.at) == ("promote", version, None, at)
    assert promoted.card_sha256 == hashlib.sha256(card).hexdigest()
    assert promoted.head_id == head(1.0).id
    assert (back.action, back.version, back.replaced) == ("rollback", None, version)
    assert set(json.loads((folder / "live.json").read_text())["audit"][0]) == {
        "at", "action", "version", "replaced", "head_id", "head_sha256", "card_sha256",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"backbone": "net@2"}, "reads the backbone net@2, the services run net@1"),
        ({"head_sha256": "0" * 64}, "card describes another head"),
        ({"head_id": "shapes@000000000000"}, "card describes another head"),
        ({"definition_sha256": "0" * 64}, "card was written for another task.yaml"),
        ({"calibration": None}, "never calibrated"),
        ({"calibration": {"temperature": 500.0, "at_bound": True}}, "ended at a limit"),
        ({"calibration": {"temperature": 1.0, "nll_after": 0.6, "nll_prior": 0.6}}, "not below the 0.600"),
        ({"calibration": {"temperature": 1.0, "nll_after": 0.7}}, "not below the 0.693"),  # a card of before
        ({"calibration": {"temperature": 1.0, "nll_after": float("nan"), "nll_prior": 0.6}}, "not below the 0.600"),
    ],
)
def test_what_must_not_go_live_is_not_promoted(folder: Path, changes, what):
    write(folder, head(0.0))
    version = keep(folder, 1.0, **changes)
    with pytest.raises(ConfigurationError, match=what):
        promote(folder, version, backbone=BACKBONE)
    assert live_bias(folder) == 0.0
    assert what in str(versions_of(folder, BACKBONE)[1].problem)


def test_a_version_that_was_tampered_with_is_not_promoted(folder: Path):
    write(folder, head(0.0))
    version = keep(folder, 1.0)
    kept = folder / "versions" / version
    head(5.0).save(kept / "head.safetensors")
    with pytest.raises(ConfigurationError, match="not those that it was named after"):
        promote(folder, version, backbone=BACKBONE)
    (kept / "head.safetensors").write_bytes(b"no head")
    with pytest.raises(ConfigurationError, match="not promoted"):
        promote(folder, version, backbone=BACKBONE)
    assert live_bias(folder) == 0.0


@pytest.mark.parametrize("version", ["../..", "", "0f3c", "ABCDEF123456-00000000", "0" * 12 + "-" + "0" * 8])
def test_a_name_that_is_no_version_is_an_error(folder: Path, version):
    keep(folder, 1.0)
    with pytest.raises(ConfigurationError):
        promote(folder, version, backbone=BACKBONE)


@pytest.mark.parametrize("text", ["", "[]", '{"version": "../../elsewhere"}', '{"version": 7}'])
def test_a_damaged_live_file_is_an_error_and_not_another_version(folder: Path, text):
    write(folder, head(0.0))
    (folder / "live.json").write_text(text)
    with pytest.raises(ConfigurationError, match="live"):
        load_task(folder)


def test_a_live_version_that_is_gone_is_an_error(folder: Path):
    write(folder, head(0.0))
    (folder / "live.json").write_text(json.dumps({"version": "0" * 12 + "-" + "0" * 8}))
    with pytest.raises(ConfigurationError, match="which is not there"):
        load_task(folder)


def test_a_candidate_that_is_no_task_is_not_kept(folder: Path):
    folder.mkdir(parents=True)

    def half(partial: Path) -> None:
        write(partial, replace(head(1.0), task="other"))

    with pytest.raises(ConfigurationError):
        keep_candidate(folder, half)
    assert list((folder / "versions").iterdir()) == []


# Dies with SIGKILL at the n-th system call that changes or syncs something; prints how many there were if it lives.
DYING = """
import os, signal, sys
from pathlib import Path
from services.training import versions
from tests_of_versions import keep

task_folder, action, version, last = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
calls = 0

def watched(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, call)

for name in ("fsync", "replace", "rename", "open", "mkdir"):
    watched(name)
if action == "promote":
    versions.promote(task_folder, version, backbone="net@1")
elif action == "rollback":
    versions.rollback(task_folder, backbone="net@1")
else:
    keep(task_folder, 3.0)
print(calls)
"""


def die(folder: Path, action: str, version: str, last: int) -> int | None:
    """How many calls there were; None: it died."""
    script = DYING.replace("tests_of_versions", Path(__file__).stem)
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder), action, version, str(last)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, -9), ran.stderr
    return int(ran.stdout) if ran.returncode == 0 else None


def test_killed_between_any_two_steps_leaves_the_old_or_the_new_version_live(folder: Path):
    write(folder, head(0.0))
    first, second = keep(folder, 1.0), keep(folder, 2.0)
    promote(folder, first, backbone=BACKBONE)
    for action, old, new in (("promote", 1.0, 2.0), ("rollback", 2.0, 1.0), ("keep", 1.0, 1.0)):
        outcomes, last = [], 0
        while True:
            last += 1
            finished = die(folder, action, second, last)
            outcomes.append(live_bias(folder))
            assert outcomes[-1] in (old, new)
            assert read_live(folder).audit[-1].version == read_live(folder).version
            if finished is not None:
                break
            if action != "keep" and outcomes[-1] == new:  # undo, so that every step is tried from the old version
                rollback(folder, backbone=BACKBONE) if action == "promote" else promote(
                    folder, second, backbone=BACKBONE
                )
        assert last > 3
        assert outcomes[-1] == new
        assert outcomes[0] == old
    assert len(versions_of(folder, BACKBONE)) == 4
    assert not list((folder / "versions").glob(".partial-*"))
