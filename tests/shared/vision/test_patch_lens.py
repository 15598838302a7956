from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shared.errors import WeightsError
from shared.vision.features import Features
from shared.vision.heads import LinearHead
from shared.vision.patch_lens import LARGEST, POOLED, PatchLens

DIM, PATCHES = 6, 16


@pytest.fixture
def lens() -> PatchLens:
    """Two findings: the first sees the first dimension, the second the second one."""
    weight = np.zeros((3, DIM), np.float32)
    weight[1, 0] = weight[2, 1] = 1.0
    return PatchLens(weight, np.array([1.0, -1.0, -1.0], np.float32))


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, PATCHES, DIM)).astype(np.float32)


def features(patches: np.ndarray | None, count: int = 5) -> Features:
    rng = np.random.default_rng(1)
    return Features(*(rng.normal(size=(count, k * DIM)).astype(np.float32) for k in (1, 3)), patches)


@pytest.fixture
def head(lens: PatchLens) -> LinearHead:
    rng = np.random.default_rng(2)
    width = 4 * DIM + lens.columns
    return LinearHead(
        task="brain-mr",
        labels=("normal", "a", "b"),
        weight=rng.normal(size=(3, width)).astype(np.float32),
        bias=np.zeros(3, np.float32),
        feature_mean=np.zeros(width, np.float32),
        feature_scale=np.ones(width, np.float32),
        temperature=1.0,
        backbone_id="small@0",
        lens=lens,
    )


def test_the_figures_are_those_worked_out_by_hand(lens: PatchLens) -> None:
    patches = np.zeros((1, PATCHES, DIM), np.float32)
    patches[0, 3, 0] = 10.0  # margin 8 for the first finding, -2 for the second
    figures = lens(patches).reshape(POOLED, 2)
    means = [[(8 - 2 * (count - 1)) / count, -2.0] for count in LARGEST]
    sums = [np.log(np.exp(8) + 15 * np.exp(-2)), np.log(16 * np.exp(-2))]
    elsewhere = 15 * np.exp(-2) / (1 + 2 * np.exp(-2))
    here = np.array([np.exp(8), np.exp(-2)]) / (1 + np.exp(8) + np.exp(-2))
    np.testing.assert_allclose(figures, [*means, sums, np.log(here + elsewhere + 0.05)], rtol=1e-5)


def test_where_a_patch_lies_does_not_matter(lens: PatchLens, patches: np.ndarray) -> None:
    order = np.random.default_rng(3).permutation(PATCHES)
    np.testing.assert_allclose(lens(patches[:, order]), lens(patches), rtol=1e-5)


def test_a_frame_s_figures_do_not_depend_on_the_others(lens: PatchLens, patches: np.ndarray) -> None:
    np.testing.assert_array_equal(lens(patches)[2:3], lens(patches[2:3]))


def test_more_of_a_finding_raises_all_its_figures_and_none_of_the_other_s_margins(
    lens: PatchLens, patches: np.ndarray
) -> None:
    more = patches.copy()
    more[:, :12, 0] += 1.0
    more[:, 12:, 0] += 0.5
    change = (lens(more) - lens(patches)).reshape(len(patches), POOLED, 2)
    assert (change[..., 0] > 0).all()
    assert np.abs(change[:, :-1, 1]).max() < 1e-5


def test_a_frame_of_few_patches_has_figures_too(lens: PatchLens, patches: np.ndarray) -> None:
    assert np.isfinite(lens(patches[:, :4])).all()
    assert lens(patches[:, :4]).shape == (5, lens.columns)


def test_huge_logits_stay_finite(lens: PatchLens, patches: np.ndarray) -> None:
    assert np.isfinite(lens(1e4 * patches)).all()


def test_a_head_reads_the_joined_features_and_then_its_lens(head: LinearHead, patches: np.ndarray) -> None:
    found = features(patches)
    read = head.read(found)
    np.testing.assert_array_equal(read[:, : 4 * DIM], found.joined())
    assert head.lens is not None
    np.testing.assert_array_equal(read[:, 4 * DIM :], head.lens(patches))
    assert head.logits(read).shape == (5, 3)


def test_a_head_without_a_lens_reads_the_joined_features(head: LinearHead, patches: np.ndarray) -> None:
    plain = replace(
        head,
        lens=None,
        weight=head.weight[:, : 4 * DIM],
        feature_mean=head.feature_mean[: 4 * DIM],
        feature_scale=head.feature_scale[: 4 * DIM],
    )
    np.testing.assert_array_equal(plain.read(features(patches)), features(None).joined())


def test_without_patches_the_head_says_what_is_missing(head: LinearHead) -> None:
    with pytest.raises(WeightsError, match="patch"):
        head.read(features(None))


def test_a_lens_is_kept_with_its_head_and_is_part_of_its_id(
    head: LinearHead, patches: np.ndarray, tmp_path: Path
) -> None:
    head.save(tmp_path / "head.safetensors")
    again = LinearHead.load(tmp_path / "head.safetensors")
    assert again.id == head.id
    np.testing.assert_array_equal(again.read(features(patches)), head.read(features(patches)))
    assert head.lens is not None
    other = replace(head, lens=replace(head.lens, bias=head.lens.bias + 1))
    assert other.id != head.id


@pytest.mark.parametrize("broken", ["rows", "nan", "wide"])
def test_a_lens_that_does_not_fit_is_refused(head: LinearHead, broken: str) -> None:
    assert head.lens is not None
    weight, bias = head.lens.weight, head.lens.bias
    if broken == "rows":
        lens = PatchLens(weight, bias[:2])
    elif broken == "nan":
        lens = PatchLens(weight * np.float32("nan"), bias)
    else:
        lens = PatchLens(np.zeros((20, DIM), np.float32), np.zeros(20, np.float32))
    with pytest.raises(WeightsError):
        replace(head, lens=lens)


def test_features_are_cut_and_joined_with_their_patches(patches: np.ndarray) -> None:
    whole = features(patches)
    again = Features.concatenated([whole.frames(slice(0, 2)), whole.frames([2, 3, 4])])
    for name in ("cls", "middle", "patches"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert Features.concatenated([whole, features(None)]).patches is None
