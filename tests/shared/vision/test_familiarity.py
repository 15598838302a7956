from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import WeightsError
from shared.vision.familiarity import ROOM, Familiarity, explain, limit_of, mean_patch_columns, study_distance
from shared.vision.features import Features
from shared.vision.heads import LinearHead


def correlated(count: int, seed: int, width: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(3, width))
    return rng.normal(size=(count, 3)) @ mix + 0.3 * rng.normal(size=(count, width))


@pytest.fixture(scope="module")
def familiarity() -> Familiarity:
    return Familiarity.fit(correlated(300, 0))


def head_with(familiarity: Familiarity | None, features: int = 32) -> LinearHead:
    rng = np.random.default_rng(0)
    return LinearHead(
        task="t",
        labels=("a", "b"),
        weight=rng.normal(size=(2, features)).astype(np.float32),
        bias=np.zeros(2, np.float32),
        feature_mean=np.zeros(features, np.float32),
        feature_scale=np.ones(features, np.float32),
        temperature=1.0,
        backbone_id="made-up",
        familiarity=familiarity,
    )


def test_new_features_of_the_same_kind_lie_near_one_and_strange_ones_far(familiarity: Familiarity) -> None:
    assert 0.8 < np.median(familiarity.distance(correlated(200, 1))) < 1.2
    off_the_plane = correlated(200, 2) + 2.0 * np.random.default_rng(3).normal(size=(200, 32))
    assert familiarity.distance(off_the_plane).min() > familiarity.distance(correlated(200, 1)).max()


def test_the_distance_is_mahalanobis_under_the_kept_covariance(familiarity: Familiarity) -> None:
    basis = familiarity.components.astype(float)
    noise = familiarity.residual_scale**2
    covariance = basis.T @ np.diag(familiarity.scale.astype(float) ** 2 - noise) @ basis + noise * np.eye(32)
    x = correlated(20, 4)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", x, np.linalg.inv(covariance), x) / 32)
    assert familiarity.distance(x) == pytest.approx(expected, rel=1e-4)


def test_only_the_named_columns_count() -> None:
    x = correlated(300, 0)
    joined = np.concatenate([np.zeros((300, 8)), x, np.zeros((300, 8))], axis=1)
    some = Familiarity.fit(joined, slice(8, 40))
    beside = joined.copy()
    beside[:, :8] = beside[:, 40:] = 1e6
    assert some.distance(beside) == pytest.approx(Familiarity.fit(x).distance(x))


def test_the_named_columns_hold_the_mean_patch_token() -> None:
    dim = 5
    cls, rest, mean = np.zeros((1, dim)), np.zeros((1, dim)), np.ones((1, dim))
    joined = Features(cls, np.concatenate([rest, mean, rest], axis=1)).joined()
    assert joined[:, mean_patch_columns(dim)].tolist() == mean.tolist()


@pytest.mark.parametrize("first", [0, 8])
def test_a_head_keeps_its_statistics_on_disk(familiarity: Familiarity, tmp_path: Path, first: int) -> None:
    kept = Familiarity(familiarity.components, familiarity.scale, familiarity.residual_scale, first)
    head = head_with(kept, 32 + first)
    head.save(tmp_path / "head.safetensors")
    again = LinearHead.load(tmp_path / "head.safetensors")
    assert again.id == head.id
    x = np.random.default_rng(1).normal(size=(5, 32 + first))
    assert again.distances(x) == pytest.approx(head.distances(x))


def test_a_head_refuses_statistics_of_other_features(familiarity: Familiarity) -> None:
    with pytest.raises(WeightsError, match="do not fit 31 features"):
        head_with(familiarity, 31)
    with pytest.raises(WeightsError, match="do not fit"):
        head_with(Familiarity(familiarity.components, familiarity.scale, familiarity.residual_scale, first=1))
    with pytest.raises(WeightsError, match="do not fit"):
        head_with(Familiarity(familiarity.components, familiarity.scale * 0, familiarity.residual_scale))


def test_few_frames_and_features_that_do_not_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        Familiarity.fit(np.eye(2, 8))
    with pytest.raises(ValueError, match="do not vary"):
        Familiarity.fit(np.zeros((20, 8)))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(3, 40), width=st.integers(2, 40), seed=st.integers(0, 9))
def test_any_training_set_gives_finite_distances(count: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, width))
    found = Familiarity.fit(x)
    assert found.fits(width)
    assert np.isfinite(found.distance(x * 100)).all()


def test_no_more_than_the_stated_share_of_fresh_studies_exceeds_the_limit() -> None:
    rng = np.random.default_rng(0)
    exceeded = [
        float((rng.gamma(5, size=400) > limit_of(rng.gamma(5, size=60), 0.1) / ROOM).mean()) for _ in range(300)
    ]
    assert np.mean(exceeded) == pytest.approx(0.1, abs=0.012)  # at most .1, and not needlessly below


def test_with_few_studies_the_largest_distance_is_the_limit() -> None:
    assert limit_of([1.0, 3.0, 2.0], 0.01) == pytest.approx(3.0 * ROOM)
    for distances, rate in (([], 0.1), ([1.0], 0.0), ([1.0], 1.0)):
        with pytest.raises(ValueError, match="limit"):
            limit_of(distances, rate)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_more_allowed_false_flags_never_raise_the_limit(distances: list[float]) -> None:
    assert limit_of(distances, 0.2) <= limit_of(distances, 0.02)


def test_half_of_the_frames_must_be_strange() -> None:
    assert study_distance([1.0, 1.0, 1.0, 9.0, 9.0]) == 1.0
    assert study_distance([1.0, 1.0, 9.0, 9.0, 9.0]) == 9.0
    with pytest.raises(ValueError, match="no distance"):
        study_distance([])


def test_the_reason_says_how_far_and_by_what_measure() -> None:
    far = explain(2.4, 1.2)
    assert "unlike" in far
    assert "2.0 times" in far
    assert "2.40" in far
    assert "probabilistic-pca" in far
    assert explain(1.0, 1.2).startswith("like the training images")
