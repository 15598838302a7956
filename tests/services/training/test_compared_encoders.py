"""Folders of other architectures, tiny and random, are read as they are published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ResNetConfig, ResNetModel, ViTConfig, ViTModel

from services.training.evaluation.compared_encoders import ComparedEncoder, from_folder, random_weights
from shared.errors import WeightsError
from shared.pixels import Frame

TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    models = {
        "resnet": ResNetModel(resnet),
        "vit": ViTModel(ViTConfig(**TRANSFORMER)),
        "dinov2": Dinov2Model(Dinov2Config(**TRANSFORMER)),
    }
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(root / name)
    processor = {"size": {"height": 56, "width": 56}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (root / "resnet" / "preprocessor_config.json").write_text(json.dumps(processor))
    return {name: root / name for name in models}


def replace_processor(folder: Path) -> ComparedEncoder:
    """The same weights, read with another normalisation."""
    path = folder / "preprocessor_config.json"
    kept = path.read_text()
    path.write_text(kept.replace("0.25", "0.2"))
    try:
        return from_folder(folder)
    finally:
        path.write_text(kept)


FRAMES = [
    Frame(np.random.default_rng(0).random((40, 30)).astype(np.float32), 1),
    Frame(np.random.default_rng(1).random((40, 40, 3)).astype(np.float32), 1),
]


@pytest.mark.parametrize(("name", "width"), [("resnet", 12), ("vit", 32), ("dinov2", 32)])
def test_any_hugging_face_folder_gives_one_row_for_each_frame(folders: dict[str, Path], name: str, width: int) -> None:
    encoder = from_folder(folders[name])
    joined = encoder.encode(FRAMES).joined()
    assert joined.shape == (2, width) == (2, encoder.dim)
    assert np.isfinite(joined).all()
    assert not np.allclose(joined[0], joined[1])
    assert encoder.encode(FRAMES[:1]).joined() == pytest.approx(joined[:1], abs=1e-4)
    assert encoder.encode([]).joined().shape == (0, width)


def test_the_processors_size_and_normalisation_are_kept(folders: dict[str, Path]) -> None:
    encoder = from_folder(folders["resnet"])
    assert encoder.id != replace_processor(folders["resnet"]).id
    assert (encoder.size_px, encoder.mean, encoder.std) == (56, (0.5,) * 3, (0.25,) * 3)
    assert from_folder(folders["vit"]).size_px == 28


def test_random_weights_have_the_shape_and_another_seed_other_values(folders: dict[str, Path]) -> None:
    state = torch.random.get_rng_state()
    rows = [random_weights(folders["dinov2"], seed=seed).encode(FRAMES).joined() for seed in (0, 0, 1)]
    assert rows[0].shape == from_folder(folders["dinov2"]).encode(FRAMES).joined().shape
    assert np.array_equal(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])
    assert not np.allclose(rows[0], from_folder(folders["dinov2"]).encode(FRAMES).joined())
    assert torch.equal(state, torch.random.get_rng_state())
    assert random_weights(folders["dinov2"], seed=0).id != random_weights(folders["dinov2"], seed=1).id


def test_what_is_no_image_model_is_refused_by_the_folders_name_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secret" / "model"
    folder.mkdir(parents=True)
    for content in (None, "{}", '{"model_type": "bert"}'):
        if content is not None:
            (folder / "config.json").write_text(content)
        with pytest.raises(WeightsError, match="--compare model: not a readable"):
            from_folder(folder)
