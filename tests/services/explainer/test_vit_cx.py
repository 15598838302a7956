"""ViT-CX against a plain transcription of the published algorithm, and its guards."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from services.explainer.vit_cx import Parameters, Saliency, vit_cx
from shared.errors import NotExplainableError

PATCH = 8
CLASSES = 3


def tiny_model(*, registers: bool, dim: int = 32, seed: int = 3):
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": dim,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "patch_size": PATCH,
        "image_size": 48,
    }
    if registers:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=4, **sizes))
        torch.nn.init.normal_(model.embeddings.register_tokens)
    else:
        model = Dinov2Model(Dinov2Config(**sizes))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.15)
    return model.eval().requires_grad_(False)


def softmax_scorer(model, seed: int = 5) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.2 * torch.randn(2 * model.config.hidden_size, CLASSES, generator=generator)
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)

    def score(pixels: Tensor) -> Tensor:
        tokens = model(pixels).last_hidden_state
        joined = torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)
        return torch.softmax(joined @ weight, dim=1)

    return score


def image(height: int, width: int, seed: int = 7) -> Tensor:
    """Smooth blobs with one bright disc, roughly normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    smooth[:, (rows - height // 3) ** 2 + (columns - width // 2) ** 2 < 60] += 2.5
    return smooth


@torch.inference_mode()
def transcription(model, scorer, x: Tensor, c: int | None, seed: int, delta: float, fill: float = 0.0):
    """The published steps one after another, with full-size masks and loops; (map, clusters, scores)."""
    _, height, width = x.shape
    caught = []
    handle = model.encoder.layer[-1].norm1.register_forward_hook(lambda m, i, o: caught.append(o))
    p_x = scorer(x.unsqueeze(0)).squeeze(0)
    handle.remove()
    if c is None:
        c = int(torch.argmax(p_x))
    skip = 1 + getattr(model.config, "num_register_tokens", 0)
    tokens = caught[0][0, skip:, :].double()

    full_masks = {}
    for channel in range(tokens.shape[1]):
        grid = tokens[:, channel].reshape(1, 1, height // PATCH, width // PATCH)
        big = torch.nn.functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        if big.max() > big.min():
            full_masks[channel] = (big - big.min()) / (big.max() - big.min())

    def distance(a: int, b: int) -> float:
        first, second = full_masks[a].flatten(), full_masks[b].flatten()
        return 1.0 - float(first @ second / (first.norm() * second.norm()))

    pairs = {frozenset(pair): distance(*pair) for pair in itertools.combinations(full_masks, 2)}
    groups = [[channel] for channel in full_masks]
    while len(groups) > 1:
        farthest = {
            (i, j): max(pairs[frozenset((a, b))] for a in groups[i] for b in groups[j])
            for i, j in itertools.combinations(range(len(groups)), 2)
        }
        (i, j), nearest = min(farthest.items(), key=lambda item: item[1])
        if nearest >= delta:
            break
        groups[i] += groups.pop(j)
    groups = sorted(sorted(group) for group in groups)

    generator = torch.Generator().manual_seed(seed)
    masks, scores = [], []
    for group in groups:
        total = sum(full_masks[channel] for channel in group)
        mask = ((total - total.min()) / (total.max() - total.min())).float()
        noise = 0.1 * torch.randn(3, height, width, generator=generator)
        without = 1.0 - mask
        p_masked = scorer((x * mask + fill * without + noise * without).unsqueeze(0))[0, c]
        p_noisy = scorer((x + noise * without).unsqueeze(0))[0, c]
        masks.append(mask)
        scores.append(float(p_masked - p_noisy + p_x[c]))
    stacked = torch.stack(masks).double()
    weighted = sum(score * mask for score, mask in zip(scores, stacked, strict=True))
    return (weighted / stacked.sum(dim=0) / len(masks)).numpy(), groups, scores


def partition(result: Saliency) -> list[list[int]]:
    members = [np.flatnonzero(result.clusters == label).tolist() for label in range(result.mask_count)]
    return sorted(members)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64), (64, 24)])
def test_map_agrees_with_the_plain_transcription(registers, height, width):
    model = tiny_model(registers=registers)
    scorer, x = softmax_scorer(model), image(height, width)

    ours = vit_cx(model, scorer, x, seed=11)
    reference, groups, scores = transcription(model, scorer, x, None, seed=11, delta=0.1)

    assert partition(ours) == groups
    assert 1 < ours.mask_count < 32
    np.testing.assert_allclose(ours.scores, scores, atol=2e-6)
    assert np.abs(ours.values - reference).max() / np.ptp(reference) <= 1e-4
    assert ours.values.dtype == np.float32
    assert ours.values.shape == (height, width)


@pytest.mark.parametrize("delta", [0.02, 0.3])
def test_other_thresholds_fills_and_targets_agree_too(delta):
    model = tiny_model(registers=False)
    scorer, x = softmax_scorer(model), image(48, 48)

    ours = vit_cx(model, scorer, x, seed=2, target=1, parameters=Parameters(delta=delta, fill=(-2.0, -2.0, -2.0)))
    reference, groups, _ = transcription(model, scorer, x, 1, seed=2, delta=delta, fill=-2.0)

    assert ours.target == 1
    assert partition(ours) == groups
    assert np.abs(ours.values - reference).max() / np.ptp(reference) <= 1e-4


def test_one_cluster_gives_a_flat_map_of_its_score():
    model = tiny_model(registers=False)
    scorer, x = softmax_scorer(model), image(48, 48)

    ours = vit_cx(model, scorer, x, seed=1, parameters=Parameters(delta=1.0))

    assert ours.mask_count == 1
    assert set(ours.clusters) == {0}
    covered = ours.values != 0
    np.testing.assert_allclose(ours.values[covered], ours.scores[0], rtol=1e-6)


def test_a_constant_channel_is_dropped_and_the_map_stays_finite():
    model = tiny_model(registers=False)
    norm = model.encoder.layer[-1].norm1
    norm.weight[4] = 0.0
    norm.bias[4] = 0.7
    scorer, x = softmax_scorer(model), image(48, 48)

    ours = vit_cx(model, scorer, x, seed=1)
    reference, groups, _ = transcription(model, scorer, x, None, seed=1, delta=0.1)

    assert ours.clusters[4] == -1
    assert np.flatnonzero(ours.clusters == -1).tolist() == [4]
    assert partition(ours) == groups
    assert np.isfinite(ours.values).all()
    assert np.abs(ours.values - reference).max() / np.ptp(reference) <= 1e-4


def test_a_channel_that_varies_only_by_rounding_is_dropped():
    model = tiny_model(registers=False)
    norm = model.encoder.layer[-1].norm1
    norm.weight[4] = 1e-9
    norm.bias[4] = 0.7

    ours = vit_cx(model, softmax_scorer(model), image(48, 48), seed=1)

    assert ours.clusters[4] == -1


def test_features_without_variation_are_refused():
    model = tiny_model(registers=False)
    model.encoder.layer[-1].norm1.weight.zero_()

    with pytest.raises(NotExplainableError, match="no feature map"):
        vit_cx(model, softmax_scorer(model), image(48, 48), seed=1)


def test_a_score_that_is_not_finite_is_refused():
    model = tiny_model(registers=False)
    sound, calls = softmax_scorer(model), itertools.count()

    def broken_later(pixels: Tensor) -> Tensor:
        scores = sound(pixels)
        return scores if next(calls) == 0 else torch.full_like(scores, math.nan)

    with pytest.raises(NotExplainableError, match="not finite"):
        vit_cx(model, lambda pixels: torch.full_like(sound(pixels), math.nan), image(48, 48), seed=1)
    with pytest.raises(NotExplainableError, match="not finite"):
        vit_cx(model, broken_later, image(48, 48), seed=1)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_result_does_not_depend_on_the_batch_size(batch_size):
    model = tiny_model(registers=False)
    scorer, x = softmax_scorer(model), image(45, 51)

    usual = vit_cx(model, scorer, x, seed=9)
    other = vit_cx(model, scorer, x, seed=9, parameters=Parameters(batch_size=batch_size))

    assert np.abs(usual.values - other.values).max() / np.ptp(usual.values) <= 1e-4


def test_same_seed_gives_the_same_map_and_another_seed_a_similar_one():
    model = tiny_model(registers=False)
    scorer, x = softmax_scorer(model), image(48, 48)

    first, again, other = (vit_cx(model, scorer, x, seed=seed).values for seed in (4, 4, 5))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] > 0.9


def test_map_is_signed_and_keeps_its_scale():
    model = tiny_model(registers=False)
    scorer, x = softmax_scorer(model), image(48, 48)

    ours = vit_cx(model, scorer, x, seed=4)

    # N times the map is a mean of the scores, weighted by the masks.
    scaled = ours.values * ours.mask_count
    assert ours.scores.min() - 1e-6 <= scaled.min()
    assert scaled.max() <= ours.scores.max() + 1e-6
    assert ours.probability == pytest.approx(float(scorer(x[None]).max()), abs=1e-6)


def test_the_hook_is_removed_and_the_global_noise_left_alone():
    model = tiny_model(registers=False)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)

    vit_cx(model, softmax_scorer(model), image(48, 48), seed=4)

    assert torch.rand(1) == expected
    assert not model.encoder.layer[-1].norm1._forward_hooks


def test_a_scorer_of_another_backbone_is_noticed():
    model, stranger = tiny_model(registers=False), tiny_model(registers=False, seed=8)

    with pytest.raises(ValueError, match="0 times"):
        vit_cx(model, softmax_scorer(stranger), image(48, 48), seed=4)
