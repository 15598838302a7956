"""Tasks as folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from shared.errors import ConfigurationError, WeightsError
from shared.manifest import InstanceEntry, SeriesEntry
from shared.vision.heads import LinearHead
from shared.vision.tasks import BUILT_IN, TaskDefinition, load_task, load_tasks, task_names

MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
DEFINITION = {
    "name": "brain-mr",
    "title": "Brain MR, phantom classes",
    "modalities": ["MR"],
    "body_parts": ["BRAIN", "HEAD"],
    "classes": [
        {"label": "lesion", "is_finding": True},
        {"label": "normal", "is_finding": False, "code": {"value": "17621005", "scheme": "SCT", "meaning": "Normal"}},
    ],
}


def write_task(tasks_dir: Path, backbone: str = "net@1", **changes: object) -> Path:
    definition = {**DEFINITION, **changes}
    folder = tasks_dir / str(definition["name"])
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(definition))
    (folder / "model-card.json").write_text(json.dumps({"task": definition["name"]}))
    LinearHead(
        task=str(definition["name"]),
        labels=("normal", "lesion"),
        weight=np.zeros((2, 4), np.float32),
        bias=np.zeros(2, np.float32),
        feature_mean=np.zeros(4, np.float32),
        feature_scale=np.ones(4, np.float32),
        temperature=1.0,
        backbone_id=backbone,
    ).save(folder / "head.safetensors")
    return folder


def series(modality: str = "MR", body_part: str | None = "BRAIN", sop_class: str = MR, frames: int = 1):
    instance = InstanceEntry(
        sop_instance_uid="1.2",
        sop_class_uid=sop_class,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        archive_key="a",
        size_bytes=1,
        sha256="0" * 64,
        number_of_frames=frames,
        patient_pseudonym="p",
        is_new=True,
    )
    return SeriesEntry(
        series_instance_uid="1.1", modality=modality, body_part=body_part, instances=(instance,)
    ), instance


def test_a_task_is_loaded_with_its_classes_in_the_order_of_the_head(tmp_path):
    write_task(tmp_path)
    (task,) = load_tasks(tmp_path, "net@1")
    assert [entry.label for entry in task.definition.classes] == ["normal", "lesion"]
    np.testing.assert_array_equal(task.finding, [False, True])
    assert task.card == {"task": "brain-mr"}


def test_a_task_names_its_frames_and_knows_its_files_by_hash(tmp_path):
    folder = write_task(tmp_path, frames={"policy": "every", "every": 3})
    task = load_task(folder)
    assert (task.definition.frames.policy, task.definition.frames.every) == ("every", 3)
    assert task.head_sha256 == hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    assert task.card_sha256 == hashlib.sha256((folder / "model-card.json").read_bytes()).hexdigest()


def test_the_names_are_read_without_loading(tmp_path):
    for name in ("b-task", "a-task"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.yaml").write_text("not: read")
    (tmp_path / "no-task").mkdir()
    assert task_names(tmp_path) == ("a-task", "b-task")


@pytest.mark.parametrize(
    ("taken", "what"),
    [
        (True, {}),
        (True, {"body_part": "head "}),
        (True, {"modality": "mr"}),
        (False, {"modality": "CT"}),
        (False, {"body_part": "KNEE"}),
        (False, {"body_part": None}),
        (False, {"frames": 0}),
    ],
)
def test_a_task_takes_images_by_modality_and_body_part(tmp_path, taken, what):
    task = load_task(write_task(tmp_path))
    assert task.takes(*series(**what)) is taken


def test_a_task_takes_images_by_sop_class(tmp_path):
    only = load_task(write_task(tmp_path / "a", sop_classes=[MR], body_parts=[]))
    assert only.takes(*series(body_part=None))
    assert not only.takes(*series(sop_class=CT))
    without = load_task(write_task(tmp_path / "b", excluded_sop_classes=[MR]))
    assert not without.takes(*series())


def test_a_head_of_another_backbone_is_an_error_in_a_named_folder(tmp_path):
    write_task(tmp_path)
    with pytest.raises(WeightsError, match="reads net@1, the backbone is net@2"):
        load_tasks(tmp_path, "net@2")


def test_a_task_that_comes_with_similis_is_left_out_under_another_backbone(tmp_path, monkeypatch, caplog):
    write_task(tmp_path)
    monkeypatch.setattr("shared.vision.tasks.BUILT_IN", tmp_path)
    assert load_tasks(None, "net@2") == ()
    assert "brain-mr is left out" in caplog.text
    assert len(load_tasks(None, "net@1")) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"modalitys": ["MR"]},
        {"modalities": []},
        {"classes": [{"label": "one", "is_finding": True}]},
        {"abstain_below": 1.5},
        {"explain": {"policy": "sometimes"}},
        {"frames": {"policy": "every"}},
    ],
)
def test_a_definition_that_is_not_valid_is_an_error(tmp_path, changes):
    write_task(tmp_path, **changes)
    with pytest.raises(ConfigurationError, match=r"task\.yaml is not a task"):
        load_tasks(tmp_path, "net@1")


def test_a_task_must_bear_its_folders_name(tmp_path):
    write_task(tmp_path).rename(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="folder's name"):
        load_tasks(tmp_path, "net@1")


def test_a_head_with_other_classes_is_an_error(tmp_path):
    write_task(tmp_path, classes=[{"label": "normal", "is_finding": False}, {"label": "other", "is_finding": True}])
    with pytest.raises(WeightsError, match="the head is of"):
        load_tasks(tmp_path, "net@1")


def test_a_missing_head_card_or_folder_is_an_error(tmp_path):
    folder = write_task(tmp_path)
    (folder / "model-card.json").unlink()
    with pytest.raises(ConfigurationError, match="model card"):
        load_tasks(tmp_path, "net@1")
    (folder / "head.safetensors").unlink()
    with pytest.raises(WeightsError):
        load_tasks(tmp_path, "net@1")
    with pytest.raises(ConfigurationError, match="SIMILIS_VISION__TASKS_DIR"):
        load_tasks(tmp_path / "nowhere", "net@1")


def test_the_default_explanation_is_one_map_of_findings():
    policy = TaskDefinition.model_validate(DEFINITION).explain
    assert (policy.policy, policy.max_frames) == ("findings", 1)


def test_the_tasks_that_come_with_similis_lie_in_the_package():
    assert BUILT_IN.name == "tasks"
    assert BUILT_IN.parent.name == "shared"
