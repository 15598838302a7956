"""The head that comes with Similis: it loads, is the one its card describes, and is no toy."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from services.training.anatomy import Anatomy
from services.training.card import ModelCard
from services.training.features import FeatureSource
from services.training.lesion import LABELS
from services.training.phantom import RECIPE_VERSION, PhantomSpec
from services.training.probe import study_distance
from services.training.train import FINDING, TASK, task_definition
from shared.manifest import InstanceEntry, SeriesEntry
from shared.pixels import Frame
from shared.settings import VisionSettings
from shared.vision.aggregate import aggregate
from shared.vision.backbone import backbone_id, load_backbone
from shared.vision.tasks import BUILT_IN, Task, load_definition, load_task, task_names

FOLDER = BUILT_IN / TASK


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(FOLDER)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return ModelCard.model_validate_json((FOLDER / "model-card.json").read_text())


def test_the_card_describes_this_very_head(task: Task, card: ModelCard) -> None:
    assert card.head_sha256 == hashlib.sha256((FOLDER / "head.safetensors").read_bytes()).hexdigest()
    assert card.head_id == task.head.id
    assert card.backbone_id == task.head.backbone_id
    assert card.labels == task.head.labels == LABELS
    assert card.temperature == pytest.approx(task.head.temperature, abs=1e-5)
    assert task_names() == (TASK,)


def test_the_head_reads_the_default_backbone() -> None:
    assert load_task(FOLDER).head.backbone_id == backbone_id(VisionSettings())


def test_the_head_is_of_this_recipe_and_this_template(card: ModelCard, anatomy: Anatomy) -> None:
    assert card.data.recipe_version == RECIPE_VERSION
    assert card.data.anatomy.sha256 == anatomy.sha256


def test_the_markdown_card_is_that_of_the_json(card: ModelCard) -> None:
    markdown = (FOLDER / "model-card.md").read_text()
    assert markdown == card.markdown()
    for words in ("research use only", "phantom", "never seen", "Shortcut", "Limits", "similis train brain-mr"):
        assert words.lower() in markdown.lower()


def test_the_task_file_is_what_training_writes(card: ModelCard) -> None:
    point = card.operating_point
    assert load_definition(FOLDER) == task_definition(point.abstain_below, point.ood_distance_above)


def test_the_card_reports_a_useful_head_and_no_shortcut(card: ModelCard) -> None:
    new_subjects = card.evaluations[0].study
    assert new_subjects.accuracy.value >= 0.75
    assert new_subjects.accuracy_answered is not None
    assert new_subjects.accuracy_answered > new_subjects.accuracy.value
    assert all(metrics.accuracy.value < 0.45 for metrics in card.shortcut_baselines.values())


def test_no_code_names_a_real_disease(task: Task) -> None:
    codes = [entry.code for entry in task.definition.classes]
    assert all(code is not None and code.scheme == "99SIMILIS" and code.meaning.startswith("Phantom") for code in codes)
    assert [entry.is_finding for entry in task.definition.classes] == FINDING.tolist()


@pytest.mark.parametrize(
    ("modality", "body_part", "frames", "taken"),
    [
        ("MR", "BRAIN", 1, True),
        ("MR", "HEAD", 1, True),
        ("MR", "KNEE", 1, False),
        ("MR", None, 1, False),
        ("CT", "BRAIN", 1, False),
        ("MR", "BRAIN", 0, False),
    ],
)
def test_the_task_takes_brain_mr_images_alone(
    task: Task, modality: str, body_part: str | None, frames: int, taken: bool
) -> None:
    instance = InstanceEntry(
        sop_instance_uid="1.2.3",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        archive_key="x",
        size_bytes=1,
        sha256="0" * 64,
        number_of_frames=frames,
        patient_pseudonym="p",
        is_new=True,
    )
    series = SeriesEntry(series_instance_uid="1.2", modality=modality, body_part=body_part, instances=(instance,))
    assert task.takes(series, instance) is taken


@pytest.mark.slow
def test_the_head_beats_chance_on_fresh_phantoms_and_finds_noise_strange(task: Task, anatomy: Anatomy) -> None:
    backbone = load_backbone(VisionSettings(device="cpu"))
    source = FeatureSource(anatomy, backbone, None)
    studies = [source.study(PhantomSpec(seed, LABELS[seed % 4]), frames=4) for seed in range(5_000_000, 5_000_012)]
    scores = [aggregate(task.head.logits(study.joined), FINDING, task.head.temperature) for study in studies]
    right = [
        int(score.probabilities.argmax()) == study.study_class for score, study in zip(scores, studies, strict=True)
    ]
    assert sum(right) >= 6  # by chance this happens once in 20 trials; the head is right in about 10 of 12
    limit = task.definition.ood_distance_above
    assert limit is not None
    assert np.median([study_distance(task.head, study) for study in studies]) < limit
    noise = [Frame(np.random.default_rng(k).random((256, 256), np.float32), 1) for k in range(2)]
    strange = task.head.distances(backbone.encode(noise).joined())
    assert strange is not None
    assert strange.min() > limit


def test_the_json_card_is_plain_json(task: Task) -> None:
    assert json.loads((FOLDER / "model-card.json").read_text()) == dict(task.card)
