from __future__ import annotations

import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from services.training.phantoms import NAMES
from services.training.phantoms.anatomy import ICBM152
from services.training.phantoms.brain_mr import LEAST_AREA_MM2, BrainMr
from services.training.phantoms.brain_slab import RECIPE_VERSION
from services.training.phantoms.lesion import LABELS, NORMAL
from services.training.phantoms.recipe import PhantomRecipe
from shared.pixels import PixelLimits, read_frames
from shared.vision.tasks import TaskDefinition


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> BrainMr:
    """The recipe with a made-up second anatomy: a ball of white matter in a shell of grey."""
    folder = tmp_path_factory.mktemp("anatomies")
    radius = np.linalg.norm(np.indices((150, 170, 140)) - np.array([75, 85, 70]).reshape(3, 1, 1, 1), axis=0)
    t1 = np.select([radius < 20, radius < 55, radius < 65], [30, 110, 80], 0).astype(np.float32)
    image = nibabel.Nifti1Image(t1, np.eye(4))
    nibabel.save(image, folder / "ball.nii.gz")
    return BrainMr(folder)


def test_it_is_a_phantom_recipe(brain: BrainMr) -> None:
    recipe: PhantomRecipe = brain
    assert recipe.task in NAMES
    assert (recipe.labels, recipe.normal, recipe.version) == (LABELS, NORMAL, RECIPE_VERSION)
    assert recipe.sources == (ICBM152, "ball")


def test_the_same_arguments_give_the_same_bytes_and_another_source_does_not(brain: BrainMr) -> None:
    first = brain.study(3, LABELS[1])
    again = brain.study(3, LABELS[1], source=ICBM152)
    assert first.objects == again.objects
    assert first.study_id == again.study_id
    other = brain.study(3, LABELS[1], source="ball")
    assert other.objects != first.objects
    assert other.study_id != first.study_id


def test_one_seed_is_one_person_whatever_the_class(brain: BrainMr) -> None:
    studies = [brain.study(8, label) for label in LABELS]
    assert len({study.patient for study in studies}) == 1
    assert len({study.study_id for study in studies}) == len(LABELS)
    assert len({tuple(study.subgroup.items()) for study in studies}) == 1
    assert brain.study(9, NORMAL).patient != studies[0].patient


@pytest.mark.parametrize("label", LABELS)
def test_frames_masks_and_labels_agree(brain: BrainMr, label: str) -> None:
    study = brain.study(5, label)
    assert len(study.objects) == len(study.masks) == len(study.frame_labels) == 8
    for data, mask, frame_label in zip(study.objects, study.masks, study.frame_labels, strict=True):
        (frame,) = read_frames(data, limits=PixelLimits())
        assert frame.pixels.shape == mask.shape
        spacing = pydicom.dcmread(io.BytesIO(data)).PixelSpacing
        is_seen = mask.sum() * spacing[0] * spacing[1] >= LEAST_AREA_MM2
        assert frame_label == (label if is_seen else NORMAL)
    assert (label in study.frame_labels) or label == NORMAL
    assert any(mask.any() for mask in study.masks) == (label != NORMAL)


def test_its_definition_is_a_task_s_and_its_codes_are_private(brain: BrainMr) -> None:
    definition = TaskDefinition.model_validate(brain.definition())
    assert tuple(entry.label for entry in definition.classes) == LABELS
    assert [entry.is_finding for entry in definition.classes] == [label != NORMAL for label in LABELS]
    assert all(entry.code is not None and entry.code.scheme == "99SIMILIS" for entry in definition.classes)


def test_an_unknown_source_is_refused_by_name(brain: BrainMr) -> None:
    with pytest.raises(ValueError, match="ball"):
        brain.study(1, NORMAL, source="moon")


def test_a_folder_that_is_not_there_leaves_the_template(tmp_path: Path) -> None:
    assert BrainMr(tmp_path / "nowhere").sources == (ICBM152,)
