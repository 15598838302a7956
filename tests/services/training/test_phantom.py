from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from services.training.phantoms.anatomy import Anatomy, from_nifti
from services.training.phantoms.brain_slab import (
    LARGEST_VALUE,
    PIXEL_SPACING_MM,
    SLICE_SPACING_MM,
    PhantomSpec,
    synthesise,
)
from services.training.phantoms.fields import Grid, smooth_field
from services.training.phantoms.lesion import LABELS, NORMAL
from shared.errors import ConfigurationError

LESIONS = [label for label in LABELS if label != NORMAL]


def test_the_template_is_a_brain_in_ras_order(anatomy: Anatomy) -> None:
    assert 0.05 < (anatomy.tissue > 0.5).mean() < 0.2
    centre = anatomy.sample_surface_mm(np.zeros((3, 1)))
    assert centre[0] < -20  # deep inside
    below_chin = np.array([[0.0], [0.0], [-115.0]])
    assert anatomy.sample_surface_mm(below_chin)[0] > 0
    # The fluid-filled ventricles lie behind the forehead's grey matter and below the vertex's.
    assert 1.5 < anatomy.tissue.max() < 2.5


@pytest.mark.parametrize("label", LABELS)
def test_the_same_spec_gives_the_same_pixels(anatomy: Anatomy, label: str) -> None:
    first, second = (synthesise(anatomy, PhantomSpec(5, label)) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.pixels, synthesise(anatomy, PhantomSpec(6, label)).pixels)


def test_pixels_are_twelve_bits_and_a_head_on_air(anatomy: Anatomy) -> None:
    volume = synthesise(anatomy, PhantomSpec(1, NORMAL))
    assert volume.pixels.shape == (8, 256, 256)
    assert volume.pixels.dtype == np.uint16
    assert volume.pixels.max() <= LARGEST_VALUE
    assert volume.pixels[:, :8, :8].mean() < 0.15 * volume.pixels[:, 118:138, 118:138].mean()
    assert np.allclose(np.diff(volume.z_mm), SLICE_SPACING_MM)


def test_a_normal_study_has_an_empty_mask(anatomy: Anatomy) -> None:
    assert not synthesise(anatomy, PhantomSpec(2, NORMAL)).mask.any()


@pytest.mark.parametrize("label", LESIONS)
def test_the_lesion_changes_its_mask_and_leaves_far_tissue_alone(anatomy: Anatomy, label: str) -> None:
    healthy, ill = (synthesise(anatomy, PhantomSpec(9, one)) for one in (NORMAL, label))
    difference = np.abs(ill.pixels.astype(int) - healthy.pixels.astype(int))
    assert np.array_equal(ill.z_mm, healthy.z_mm)
    assert ill.mask.any()
    # Same subject, same noise: outside the lesion and its surroundings nothing moves at all.
    assert (difference == 0).mean() > 0.7
    assert difference[ill.mask].mean() > 20 * difference[~ill.mask].mean()


def test_the_three_lesions_follow_one_law_of_volume(anatomy: Anatomy) -> None:
    means = []
    for label in LESIONS:
        volumes = [
            synthesise(anatomy, PhantomSpec(seed, label)).mask.sum() * PIXEL_SPACING_MM**2 * SLICE_SPACING_MM
            for seed in range(5)
        ]
        assert all(4 / 3 * np.pi * 10**3 * 0.98 < volume < 4 / 3 * np.pi * 16**3 * 1.02 for volume in volumes)
        means.append(np.mean(volumes))
    assert max(means) < 1.8 * min(means)


def test_more_contrast_makes_a_stronger_lesion(anatomy: Anatomy) -> None:
    def strength(contrast: float) -> float:
        volume = synthesise(anatomy, PhantomSpec(4, "meningioma-like", contrast))
        return float(volume.pixels[volume.mask].mean())

    assert strength(2.0) < strength(4.0) < strength(6.0)


@pytest.mark.parametrize("change", [{"label": "cyst"}, {"seed": -1}, {"slices": 2}, {"contrast": 0.0}])
def test_a_spec_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        PhantomSpec(**{"seed": 1, "label": NORMAL, **change})  # type: ignore[arg-type]


def test_a_smooth_field_has_unit_variance_and_the_asked_correlation() -> None:
    axis = np.arange(0.0, 400.0, 4.0)
    field = smooth_field(np.random.default_rng(0), Grid(axis, axis, axis), 20.0)
    assert field.shape == (100, 100, 100)
    assert 0.9 < field.std() < 1.1
    near, far = (float(np.mean(field[lag:] * field[:-lag])) for lag in (1, 20))
    assert near > 0.9
    assert abs(far) < 0.1


def test_any_skull_stripped_volume_is_an_anatomy(tmp_path: Path) -> None:
    radius = np.linalg.norm(np.indices((70, 80, 60)) - np.array([35, 40, 30]).reshape(3, 1, 1, 1), axis=0)
    t1 = np.select([radius < 8, radius < 18, radius < 25], [30, 110, 80], 0).astype(np.uint8)
    path = tmp_path / "ball.nii.gz"
    nibabel.save(nibabel.Nifti1Image(t1, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    ball = from_nifti(path)
    assert ball.name == "ball"
    assert abs(ball.sample_surface_mm(np.zeros((3, 1)))[0] + 50) < 6  # 25 voxels of 2 mm
    assert ball.sample_tissue(np.array([[26.0], [0.0], [0.0]]))[0] == pytest.approx(2.0, abs=0.2)
    assert ball.sample_tissue(np.array([[42.0], [0.0], [0.0]]))[0] == pytest.approx(1.0, abs=0.2)


def test_a_volume_with_its_skull_or_without_content_is_refused(tmp_path: Path) -> None:
    full = tmp_path / "full.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.uint8), np.eye(4)), full)
    with pytest.raises(ConfigurationError, match="skull-stripped"):
        from_nifti(full)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(gzip.compress(b"no volume"))
    with pytest.raises(ConfigurationError, match="NIfTI"):
        from_nifti(broken)
