"""Tiny models, and the published algorithms written down step by step: loops and full-size masks, nothing clever."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Ended, Request
from shared.saliency.masked_queue import run_masked
from shared.saliency.vit_cx import ViTCX

CLASSES = 3


def tiny_model(*, registers: bool = False, patch: int = 8, image_px: int = 48, layers: int = 3, seed: int = 3):
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "patch_size": patch,
        "image_size": image_px,
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


@dataclass(frozen=True)
class TinyHead:
    """Class token and mean patch token, joined, to three classes."""

    weight: Tensor
    is_sigmoid: bool = False

    def logits(self, rows: Tensor) -> Tensor:
        return rows @ self.weight

    def __call__(self, rows: Tensor) -> Tensor:
        logits = self.logits(rows)
        return torch.sigmoid(logits) if self.is_sigmoid else torch.softmax(logits, dim=1)


def tiny_head(model, *, is_sigmoid: bool = False, seed: int = 5) -> TinyHead:
    generator = torch.Generator().manual_seed(seed)
    return TinyHead(0.2 * torch.randn(2 * model.config.hidden_size, CLASSES, generator=generator), is_sigmoid)


def explained_tiny(model) -> ExplainedModel:
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)

    def joined(tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)

    return ExplainedModel(
        model,
        clean=lambda pixels: joined(model(pixels).last_hidden_state),
        read=lambda tokens: joined(model.layernorm(tokens)),
    )


def blobs(height: int, width: int, seed: int = 7) -> Tensor:
    """Smooth blobs with one bright disc, roughly normalised."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    smooth[:, (rows - height // 3) ** 2 + (columns - width // 2) ** 2 < (height + width) ** 2 // 150] += 2.5
    return smooth


def run_vit_cx(
    model: ExplainedModel,
    *requests: Request,
    batch_size: int = 8,
    forward: Callable[[Tensor], Tensor] | None = None,
    **how,
) -> list[Ended]:
    """ViT-CX of some images in one queue."""
    starts = iter([lambda request=request: ViTCX(model, request, **how) for request in requests])
    return [*run_masked(lambda: next(starts, None), forward or model.clean, batch_size=batch_size)]


@torch.inference_mode()
def plain_vit_cx(
    model, scorer, x: Tensor, c: int | None, noise, delta: float = 0.1, fill: float = 0.0, first_only=False
):
    """(map, clusters, scores); `noise` gives e_i / 0.1 for i."""
    _, height, width = x.shape
    patch = model.config.patch_size
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
        grid = tokens[:, channel].reshape(1, 1, height // patch, width // patch)
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

    masks, scores = [], []
    for number, group in enumerate(groups):
        total = sum(full_masks[channel] for channel in group)
        mask = ((total - total.min()) / (total.max() - total.min())).float()
        e = 0.1 * noise(number)
        without = 1.0 - mask
        p_masked = scorer((x * mask + fill * without + e * without).unsqueeze(0))[0, c]
        p_noisy = scorer((x + e * without).unsqueeze(0))[0, c]
        masks.append(mask)
        scores.append(float(p_masked) if first_only else float(p_masked - p_noisy + p_x[c]))
    stacked = torch.stack(masks).double()
    weighted = sum(score * mask for score, mask in zip(scores, stacked, strict=True))
    return (weighted / stacked.sum(dim=0) / len(masks)).numpy(), groups, scores


def plain_attention(layer, tokens: Tensor) -> Tensor:
    """(heads, T, T) of one block, by its own weights."""
    attention = layer.attention
    parts = attention.attention if hasattr(attention, "attention") else attention
    query, key = (getattr(parts, "q_proj", None) or parts.query, getattr(parts, "k_proj", None) or parts.key)
    normed, heads = layer.norm1(tokens), parts.num_attention_heads
    q, k = (linear(normed).unflatten(-1, (heads, -1)).transpose(0, 1) for linear in (query, key))
    return torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)


def range_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the expected map's range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))
