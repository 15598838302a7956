"""The heads that come with Similis: each loads, is the one its card describes, and is no toy."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from services.training.card.model_card import ModelCard
from services.training.phantoms.anatomy import Anatomy
from services.training.phantoms.brain_dicom import mr_images, part10_bytes
from services.training.phantoms.brain_slab import PhantomSpec, synthesise
from services.training.phantoms.lesion import LABELS
from shared.manifest import InstanceEntry, SeriesEntry
from shared.pixels import Frame, PixelLimits, read_frames
from shared.settings import VisionSettings
from shared.vision.aggregate import aggregate
from shared.vision.backbone import backbone_id, load_backbone
from shared.vision.familiarity import study_distance
from shared.vision.tasks import BUILT_IN, Task, load_task, load_tasks, task_names

TASKS = ("blood-smear", "brain-mr", "lung-ct", "retina-fundus")


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(BUILT_IN / request.param)


@pytest.fixture
def card(task: Task) -> ModelCard:
    return ModelCard.model_validate_json((BUILT_IN / task.name / "model-card.json").read_text())


def test_these_tasks_come_with_similis_and_read_the_default_backbone() -> None:
    assert task_names() == TASKS
    assert tuple(task.name for task in load_tasks(None, backbone_id(VisionSettings()))) == TASKS


def test_the_card_describes_this_very_head(task: Task, card: ModelCard) -> None:
    folder = BUILT_IN / task.name
    assert card.head_sha256 == hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    assert card.head_id == task.head.id
    assert card.backbone_id == task.head.backbone_id
    assert card.labels == task.head.labels
    assert card.calibration.temperature == pytest.approx(task.head.temperature, abs=1e-4)
    assert card.operating_point.abstain_below == task.definition.abstain_below
    assert (folder / "head.safetensors").stat().st_size < 130_000


def test_the_markdown_card_is_that_of_the_json(task: Task, card: ModelCard) -> None:
    folder = BUILT_IN / task.name
    assert (folder / "model-card.md").read_text() == card.markdown()
    assert json.loads((folder / "model-card.json").read_text()) == dict(task.card)
    for words in ("research use only", "phantom", "limits", f"similis train {task.name}"):
        assert words in card.markdown().lower()


def test_the_head_is_useful_on_new_subjects(card: ModelCard) -> None:
    assert card.evaluations[0].study.accuracy.low >= 1.5 / len(card.labels)


def test_no_code_names_a_real_disease(task: Task) -> None:
    codes = [entry.code for entry in task.definition.classes]
    assert all(code is not None and code.scheme == "99SIMILIS" and "hantom" in code.meaning for code in codes)
    assert 0 < int(task.finding.sum()) < len(codes)


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
def test_brain_mr_takes_brain_mr_images_alone(modality: str, body_part: str | None, frames: int, taken: bool) -> None:
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
    assert load_task(BUILT_IN / "brain-mr").takes(series, instance) is taken


@pytest.mark.slow
def test_the_brain_head_beats_chance_on_fresh_phantoms_and_finds_noise_strange(anatomy: Anatomy) -> None:
    backbone = load_backbone(VisionSettings(device="cpu"))
    task = load_task(BUILT_IN / "brain-mr")
    limit = task.definition.ood_distance_above
    assert limit is not None
    right, distances = 0, []
    for seed in range(5_000_000, 5_000_012):
        spec = PhantomSpec(seed, LABELS[seed % 4])
        frames = [
            frame
            for image in mr_images(anatomy, spec, synthesise(anatomy, spec))
            for frame in read_frames(part10_bytes(image), limits=PixelLimits())
        ]
        read = task.head.read(backbone.encode(frames))
        score = aggregate(task.head.logits(read), task.finding, task.head.temperature)
        right += task.head.labels[int(np.argmax(score.probabilities))] == spec.label
        distances.append(study_distance(task.head.distances(read)))
    assert right >= 8  # by chance this happens once in 300 trials
    assert np.median(distances) < limit
    noise = [Frame(np.random.default_rng(k).random((256, 256), np.float32), 1) for k in range(2)]
    strange = task.head.distances(task.head.read(backbone.encode(noise)))
    assert strange is not None
    assert strange.min() > limit
