"""The fast forward gives what Hugging Face's model gives, and a frame's vector does not depend on its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import save_small, small_settings

from shared.pixels.frame import Frame
from shared.vision.backbone import load_backbone
from shared.vision.checkpoint import read_checkpoint
from shared.vision.fast_forward import BlockWays, FastForward
from shared.vision.hugging_face import load_model
from shared.vision.packed_linear import can_pack
from shared.vision.transform import to_model_input

CPU = torch.device("cpu")
ARCHITECTURES = {
    "plain": {},
    "registers": {"registers": True},
    "swiglu": {"use_swiglu_ffn": True},
    "registers and swiglu": {"registers": True, "use_swiglu_ffn": True},
    "no qkv bias": {"qkv_bias": False},
    "deep": {"num_hidden_layers": 7, "mlp_ratio": 2},
}


def scrambled(folder):
    """Every tensor away from its neutral start: LayerScale from 1, biases and registers from 0."""
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    noisy = {
        name: value + (0.3 if value.ndim == 1 else 0.1) * torch.randn(value.shape, generator=generator)
        for name, value in tensors.items()
    }
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def frames(count, size, *, colour=False, seed=0):
    """Smooth pictures, as images are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    shape = (size, size, 3) if colour else (size, size)
    for number in range(count):
        waves = sum(np.sin(2 * np.pi * (f * x * rng.normal() + f * y * rng.normal()) + f) / f for f in range(1, 6))
        picture = np.clip(0.5 + 0.3 * (waves[..., None] * rng.random(3) if colour else waves), 0, 1)
        yield Frame((picture * np.ones(shape)).astype(np.float32), number + 1)


@pytest.mark.parametrize(
    "ways", [BlockWays(), BlockWays(can_pack(torch.float32), has_batched_attention=True)], ids=["plain", "others"]
)
@pytest.mark.parametrize("size", [28, 42, 70], ids=["smaller", "as trained", "larger"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_is_hugging_face_to_rounding(tmp_path, architecture, size, ways):
    folder = scrambled(save_small(tmp_path / "net", **ARCHITECTURES[architecture]))
    fast = FastForward(read_checkpoint(folder), size, ways=ways)
    expected = oracle(folder, size, frames(2, size, colour=True))
    squares = torch.from_numpy(np.stack([frame.pixels.transpose(2, 0, 1) for frame in frames(2, size, colour=True)]))
    with torch.inference_mode():
        found = fast(squares).numpy()
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


def oracle(folder, size, pictures):
    settings = small_settings(folder, input_size_px=size)
    backbone = load_backbone(settings)
    inputs = torch.from_numpy(np.stack([to_model_input(frame, size) for frame in pictures]))
    with torch.inference_mode():
        return torch.cat(backbone.forward(inputs), dim=1).numpy()


def test_grey_through_one_channel_is_grey_through_three(tmp_path):
    folder = scrambled(save_small(tmp_path / "net", registers=True))
    fast = FastForward(read_checkpoint(folder), 28)
    grey = torch.rand((3, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(fast(grey), fast(grey.expand(-1, 3, -1, -1)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_stays_within_its_tolerance_on_small_models(tmp_path, architecture):
    folder = save_small(tmp_path / "net", **ARCHITECTURES[architecture])
    pictures = list(frames(8, 42, seed=2))
    expected = oracle(folder, 42, pictures)
    found = load_backbone(small_settings(folder, input_size_px=42, precision="bf16")).encode(pictures).joined()
    assert relative_error(found, expected) < 0.02


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def neighbours(vectors, count):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def test_the_default_backbone_keeps_errors_and_neighbours_within_the_gate(default_settings, default_backbone):
    pictures = list(phantom_slices(40))
    inputs = torch.from_numpy(np.stack([to_model_input(frame, 224) for frame in pictures]))
    with torch.inference_mode():
        expected = torch.cat([torch.cat(default_backbone.forward(batch), 1) for batch in inputs.split(8)]).numpy()
    exact = default_backbone.encode(pictures[:8]).joined()
    assert np.abs(exact - expected[:8]).max() < 2e-4
    bf16 = load_backbone(default_settings.model_copy(update={"precision": "bf16"})).encode(pictures).joined()
    width = default_backbone.dim
    for part in range(4):  # each alone: the widest must not hide the others
        columns = slice(part * width, (part + 1) * width)
        assert relative_error(bf16[:, columns], expected[:, columns]) <= 0.02
    pairs = zip(neighbours(bf16[:, :width], 10), neighbours(expected[:, :width], 10), strict=True)
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
    assert overlap >= 0.95


def phantom_slices(count):
    """Slices like the brain phantom's: what it needs is not in every installation, so drawn here."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    for number in range(count):
        stretch, turn = rng.uniform(0.6, 0.9, 2), rng.uniform(0, np.pi)
        u, v = (x * np.cos(turn) + y * np.sin(turn)) / stretch[0], (y * np.cos(turn) - x * np.sin(turn)) / stretch[1]
        radius = np.hypot(u, v)
        folds = np.sin(rng.uniform(8, 25) * u + 3 * np.sin(rng.uniform(4, 12) * v)) * np.clip(radius, 0, 1)
        tissue = np.where(radius < 1, 0.55 + 0.2 * folds * rng.uniform(0.3, 1), 0.0)
        tissue[(radius > 0.93) & (radius < 1)] = rng.uniform(0.6, 1)
        spot = np.hypot(x - rng.uniform(-0.3, 0.3), y - rng.uniform(-0.3, 0.3)) < rng.uniform(0.03, 0.2)
        tissue[spot] += rng.uniform(-0.3, 0.3)
        noise = rng.normal(0, 0.02, (2, *x.shape))
        yield Frame(np.clip(np.hypot(tissue + noise[0], noise[1]), 0, 1).astype(np.float32), number + 1)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_a_vector_does_not_depend_on_its_batch_to_the_bit(tmp_path, precision, colour):
    folder = save_small(tmp_path / "net", hidden_size=64, num_attention_heads=1, registers=True)
    backbone = load_backbone(small_settings(folder, precision=precision, batch_size=8))
    assert_independent(backbone, 28, [(n, range(n)) for n in (2, 3, 8, 9)], colour=colour)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_vector_of_the_default_backbone_does_not_depend_on_its_batch_to_the_bit(default_settings, precision):
    backbone = load_backbone(default_settings.model_copy(update={"precision": precision}))
    assert_independent(backbone, 224, [(4, [1, 3]), (5, [4])])


def assert_independent(backbone, size, cases, *, colour=False):
    (frame,) = frames(1, size, colour=colour, seed=9)
    alone = backbone.encode_squares([frame.pixels]).joined()[0]
    for seed, (count, places) in enumerate(cases):
        for place in places:
            others = [other.pixels for other in frames(count, size, colour=colour, seed=seed)]
            others[place] = frame.pixels
            (strange,) = frames(1, size, colour=not colour)
            others.insert(place, strange.pixels)  # a mixed batch
            np.testing.assert_array_equal(backbone.encode_squares(others).joined()[place + 1], alone)


def test_the_same_model_is_loaded_for_explanations(tmp_path):
    folder = save_small(tmp_path / "net")
    backbone = load_backbone(small_settings(folder, precision="bf16"))
    assert backbone.model is backbone.model
    for found, expected in zip(backbone.model.parameters(), load_model(folder, CPU).parameters(), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
