"""Linear heads: what they compute and how they are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared.errors import WeightsError
from shared.vision.familiarity import Familiarity
from shared.vision.heads import LinearHead, Projection

RNG = np.random.default_rng(0)
JOINED = RNG.normal(5, 2, (9, 8)).astype(np.float32)


def head(**changes: object) -> LinearHead:
    values = {
        "task": "brain-mr",
        "labels": ("normal", "a", "b"),
        "weight": RNG.normal(size=(3, 8)).astype(np.float32),
        "bias": np.array([0.1, 0.2, 0.3], np.float32),
        "feature_mean": JOINED.mean(axis=0),
        "feature_scale": JOINED.std(axis=0),
        "temperature": 1.5,
        "backbone_id": "net@abc-t1s224",
        **changes,
    }
    return LinearHead(**values)


def familiarity(dims: int = 8, kept: int = 3) -> Familiarity:
    directions = np.linalg.qr(RNG.normal(size=(dims, dims)))[0][:kept].astype(np.float32)
    return Familiarity(directions, np.array([3.0, 2.0, 1.0], np.float32)[:kept], 0.5)


def test_logits_are_those_of_the_standardised_features():
    probe = head()
    expected = ((JOINED - probe.feature_mean) / probe.feature_scale) @ probe.weight.T + probe.bias
    np.testing.assert_allclose(probe.logits(JOINED), expected, atol=1e-5)


def test_probabilities_are_a_softmax_with_temperature():
    probabilities = head().probabilities(np.array([[3.0, 0.0, 0.0]]))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[0, 0] / probabilities[0, 1], np.exp(2.0))


@pytest.mark.parametrize("with_familiarity", [False, True])
def test_a_head_is_the_same_after_saving_and_loading(tmp_path, with_familiarity):
    probe = head(familiarity=familiarity() if with_familiarity else None)
    probe.save(tmp_path / "head.safetensors")
    loaded = LinearHead.load(tmp_path / "head.safetensors")
    assert (loaded.id, loaded.labels, loaded.temperature) == (probe.id, probe.labels, probe.temperature)
    np.testing.assert_array_equal(loaded.logits(JOINED), probe.logits(JOINED))
    if with_familiarity:
        np.testing.assert_array_equal(loaded.distances(JOINED), probe.distances(JOINED))
    else:
        assert loaded.distances(JOINED) is None


def test_the_id_changes_with_whatever_changes_the_answer():
    weight = RNG.normal(size=(3, 8)).astype(np.float32)
    probe = head(weight=weight)
    assert probe.id.startswith("brain-mr@")
    assert head(weight=weight).id == probe.id
    others = [
        replace(probe, temperature=1.6),
        replace(probe, labels=("normal", "b", "a")),
        replace(probe, bias=probe.bias + 1),
        replace(probe, backbone_id="other"),
        replace(probe, familiarity=familiarity()),
    ]
    assert len({probe.id, *(other.id for other in others)}) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": np.zeros((2, 8), np.float32)},
        {"bias": np.zeros(2, np.float32)},
        {"feature_scale": np.zeros(8, np.float32)},
        {"feature_mean": np.full(8, np.nan, np.float32)},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"labels": ("only",)},
        {"familiarity": familiarity(dims=9)},
    ],
)
def test_a_head_that_cannot_be_is_an_error(changes):
    with pytest.raises(WeightsError):
        head(**changes)


@pytest.mark.parametrize("damage", ["missing", "cut", "no tensor", "no header", "other format"])
def test_a_file_that_is_no_head_is_an_error(tmp_path, damage):
    path = tmp_path / "head.safetensors"
    head().save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "no tensor":
        tensors = load_file(path)
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            metadata = file.metadata()
        del tensors["bias"]
        save_file(tensors, path, metadata)
    elif damage == "no header":
        save_file(load_file(path), path)
    else:
        save_file(load_file(path), path, {"head": '{"format": "other"}'})
    with pytest.raises(WeightsError, match="head"):
        LinearHead.load(path)


def test_familiar_features_are_near_1_and_strange_ones_far():
    probe = head(feature_mean=np.zeros(8, np.float32), feature_scale=np.ones(8, np.float32), familiarity=familiarity())
    gaussian = probe.familiarity
    assert gaussian is not None
    inside = RNG.normal(size=(4000, 3)) * gaussian.scale @ gaussian.components
    rest = RNG.normal(size=(4000, 8)) * gaussian.residual_scale
    rest -= rest @ gaussian.components.T @ gaussian.components
    assert np.median(probe.distances(inside + rest)) == pytest.approx(0.95, abs=0.1)
    assert probe.distances(np.full((1, 8), 20.0))[0] > 5


def test_a_projection_is_kept_and_gives_unit_vectors(tmp_path):
    cls = RNG.normal(size=(5, 4))
    projection = Projection(RNG.normal(size=(3, 4)).astype(np.float32), cls.mean(axis=0).astype(np.float32))
    probe = head(projection=projection)
    probe.save(tmp_path / "head.safetensors")
    loaded = LinearHead.load(tmp_path / "head.safetensors")
    vectors = loaded.project(cls)
    assert vectors is not None
    assert vectors.shape == (5, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors, probe.project(cls))
    assert loaded.id == probe.id != replace(probe, projection=None).id
    assert head().project(cls) is None
    with pytest.raises(WeightsError, match="projection"):
        head(projection=Projection(projection.matrix, np.zeros(3, np.float32)))


def test_the_same_head_is_the_same_bytes(tmp_path):
    probe = head()
    probe.save(tmp_path / "head.safetensors")
    assert (tmp_path / "head.safetensors").read_bytes() == probe.to_bytes() == replace(probe).to_bytes()
