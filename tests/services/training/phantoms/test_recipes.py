"""What every flat phantom recipe promises: pure functions, exact masks, valid objects, no give-aways."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from services.training.phantoms import NAMES, recipe
from services.training.phantoms.blood_smear import BloodSmear
from services.training.phantoms.lung_ct import LungCt
from services.training.phantoms.recipe import LabelledStudy, PhantomRecipe
from services.training.phantoms.retina_fundus import RetinaFundus
from shared.ids import is_valid_uid
from shared.pixels import PixelLimits, read_frames
from shared.vision.tasks import TaskDefinition

RECIPES = (LungCt(), BloodSmear(), RetinaFundus())
ANYWHERE = {"lung-ct": "drawn-1/own", "blood-smear": "drawn-lab-2", "retina-fundus": "drawn-2"}
"""A source of each that every machine has."""

every_recipe = pytest.mark.parametrize("phantom", RECIPES, ids=lambda phantom: phantom.task)
_made: dict[tuple[str, int, str], LabelledStudy] = {}


def study(phantom: PhantomRecipe, seed: int, label: str) -> LabelledStudy:
    key = (phantom.task, seed, label)
    if key not in _made:
        _made[key] = phantom.study(seed, label, source=ANYWHERE[phantom.task])
    return _made[key]


def datasets(made: LabelledStudy) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(io.BytesIO(item)) for item in made.objects]


def test_every_recipe_is_found_by_its_task() -> None:
    assert {"lung-ct", "blood-smear", "retina-fundus"} <= set(NAMES)
    for phantom in RECIPES:
        assert type(recipe(phantom.task)) is type(phantom)
    with pytest.raises(ValueError, match="no phantom recipe"):
        recipe("toes")


@every_recipe
def test_the_same_arguments_give_the_same_bytes_and_others_do_not(phantom: PhantomRecipe) -> None:
    source, label = ANYWHERE[phantom.task], phantom.labels[1]
    first = study(phantom, 3, label)
    assert phantom.study(3, label, source=source).objects == first.objects
    assert phantom.study(3, label, source=source, contrast=2.0).objects != first.objects
    ids = {study(phantom, seed, name).study_id for seed in (3, 4) for name in phantom.labels}
    assert len(ids) == 2 * len(phantom.labels)


@every_recipe
def test_a_seed_is_one_subject_whatever_the_label(phantom: PhantomRecipe) -> None:
    studies = [study(phantom, 3, label) for label in phantom.labels]
    assert len({made.patient for made in studies}) == 1
    assert len({tuple(made.subgroup.items()) for made in studies}) == 1
    assert set(studies[0].subgroup) == {"sex", "age_band", "scanner"}
    assert study(phantom, 4, phantom.normal).patient != studies[0].patient
    assert not any(label.removesuffix("-like") in made.study_id for made in studies for label in phantom.labels)


@every_recipe
def test_masks_and_frame_labels_agree_with_the_class(phantom: PhantomRecipe) -> None:
    for label in phantom.labels:
        made = study(phantom, 5, label)
        frames = [frame for item in made.objects for frame in read_frames(item, limits=PixelLimits())]
        assert len(frames) == len(made.masks) == len(made.frame_labels)
        for frame, mask, frame_label in zip(frames, made.masks, made.frame_labels, strict=True):
            assert mask.dtype == np.bool_
            assert frame.pixels.shape[:2] == mask.shape
            assert frame_label == (label if mask.any() else phantom.normal)
        assert any(mask.any() for mask in made.masks) == (label != phantom.normal)
        assert made.label == label


@every_recipe
def test_classes_differ_most_inside_the_mask(phantom: PhantomRecipe) -> None:
    """The mask is where the lesion is: a pixel inside changes more than one outside when the lesion goes away."""
    label = phantom.labels[-1]
    sick, well = study(phantom, 6, label), study(phantom, 6, phantom.normal)
    inside, outside = [], []
    for one, other, mask in zip(sick.objects, well.objects, sick.masks, strict=True):
        (with_lesion,), (without,) = (list(read_frames(item, limits=PixelLimits())) for item in (one, other))
        change = np.abs(with_lesion.pixels - without.pixels)
        change = change.mean(axis=-1) if change.ndim == 3 else change
        inside.append(float(change[mask].mean()))
        outside.append(float(change[~mask].mean()))
    assert np.mean(inside) > 3 * np.mean(outside)


@every_recipe
def test_objects_say_that_they_are_phantoms_for_research(phantom: PhantomRecipe) -> None:
    made = study(phantom, 3, phantom.labels[-1])
    for image in datasets(made):
        assert image.PatientID == made.patient
        assert image.PatientID.startswith("PHANTOM-")
        assert str(image.PatientName).startswith("PHANTOM^")
        assert "research use only" in image.SeriesDescription
        assert all(len(text) <= 64 for text in (image.SeriesDescription, image.StudyDescription))
        for uid in (image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID):
            assert is_valid_uid(uid)
    assert len({image.SOPInstanceUID for image in datasets(made)}) == len(made.objects)
    assert len({image.StudyInstanceUID for image in datasets(made)}) == 1


@every_recipe
def test_the_definition_takes_what_the_recipe_makes(phantom: PhantomRecipe) -> None:
    definition = TaskDefinition.model_validate({"title": "T", **phantom.definition()})
    assert definition.name == phantom.task
    assert {entry.label for entry in definition.classes} == set(phantom.labels)
    assert [entry.label for entry in definition.classes if not entry.is_finding] == [phantom.normal]
    for entry in definition.classes:
        assert entry.code is not None
        assert entry.code.scheme == "99SIMILIS"
        assert len(entry.code.value) <= 16  # PS3.5 section 6.2: a code value is a short string
    assert len({entry.code.value for entry in definition.classes if entry.code}) == len(phantom.labels)
    for image in datasets(study(phantom, 3, phantom.normal)):
        assert image.Modality in definition.modalities
        assert not definition.body_parts or image.BodyPartExamined in definition.body_parts
        assert not definition.sop_classes or image.SOPClassUID in definition.sop_classes


@every_recipe
def test_arguments_out_of_range_are_refused(phantom: PhantomRecipe) -> None:
    for bad in ({"label": "toes"}, {"seed": -1}, {"contrast": 0.0}, {"source": "the moon"}):
        with pytest.raises(ValueError):
            phantom.study(**{"seed": 1, "label": phantom.normal, **bad})


@every_recipe
def test_a_source_is_drawn_by_the_seed_where_none_is_named(phantom: PhantomRecipe) -> None:
    drawn = phantom.study(12, phantom.normal)
    assert drawn.source in phantom.sources
    assert len(phantom.sources) >= 4
    assert phantom.study(12, phantom.normal, source=drawn.source).objects == drawn.objects


def test_lesions_of_both_kinds_of_nodule_have_the_same_area() -> None:
    phantom = LungCt()
    for seed in range(3, 6):
        benign, malignant = (study(phantom, seed, label).masks[1].sum() for label in ("benign-like", "malignant-like"))
        assert malignant == pytest.approx(benign, rel=0.06)


def test_a_lung_slice_is_in_hounsfield_units() -> None:
    for image in datasets(study(LungCt(), 3, "normal")):
        hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        assert -950 < np.percentile(hu, 20) < -700  # lung
        assert -50 < np.percentile(hu, 90) < 400  # chest wall, heart, bone


def test_jpeg_objects_show_the_same_picture() -> None:
    for plain, packed in ((BloodSmear(), BloodSmear(jpeg=True)), (RetinaFundus(), RetinaFundus(jpeg=True))):
        source = ANYWHERE[plain.task]
        ((first, second),) = zip(
            *(
                list(read_frames(phantom.study(3, plain.labels[1], source=source).objects[0], limits=PixelLimits()))
                for phantom in (plain, packed)
            ),
            strict=True,
        )
        assert np.abs(first.pixels - second.pixels).mean() < 0.02


@pytest.mark.peers
@pytest.mark.skipif(
    shutil.which("dciodvfy") is None and os.environ.get("SIMILIS_REQUIRE_PEERS") != "1",
    reason="needs dciodvfy (Debian dicom3tools)",
)
def test_dciodvfy_finds_no_error_in_any_kind_of_object(tmp_path: Path) -> None:
    packed = (BloodSmear(jpeg=True), RetinaFundus(jpeg=True))
    samples = [study(phantom, 3, phantom.labels[1]).objects[0] for phantom in RECIPES]
    samples += [phantom.study(3, phantom.labels[1], source=ANYWHERE[phantom.task]).objects[0] for phantom in packed]
    for number, sample in enumerate(samples):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(sample)
        report = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, timeout=60, check=False)
        errors = [line for line in (report.stdout + report.stderr).splitlines() if line.startswith("Error")]
        assert not errors, (number, errors)
