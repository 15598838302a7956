"""ViT-CX as its authors' code goes about it, for time: full-size masks, scikit-learn's clustering, batches of 50.

Left out, though in their code: a backward pass whose result is not used, and a deep copy of the model. Put right, for
DINOv2: the grid, the prefix tokens, channels that do not vary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn.functional import interpolate, normalize

BATCH: Final = 50


@torch.inference_mode()
def published_vit_cx(
    model: Any, scorer: Callable[[Tensor], Tensor], x: Tensor, *, seed: int, delta: float = 0.1, noise_std: float = 0.1
) -> tuple[NDArray[np.float32], int, float]:
    """The map, the number of masks, and the CPU seconds of the 2N masked forward passes.

    Args:
        model: The Hugging Face model.
        scorer: Class probabilities by it.
        x: (3, H, W).
        seed: Of the noise.
        delta: The clusters' threshold.
        noise_std: Of the noise, in normalised pixel units.
    """
    seen: list[Tensor] = []
    hook = model.encoder.layer[-1].norm1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    p_x = scorer(x[None])[0]
    hook.remove()
    c = int(p_x.argmax())
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)
    side = x.shape[1] // model.config.patch_size
    maps = seen[0][0, prefix:].T.reshape(1, -1, side, side)
    masks = interpolate(maps, size=x.shape[1:], mode="bilinear", align_corners=False)[0]  # (D, H, W)
    masks = _spanning_0_to_1(masks)

    flat = normalize(masks.flatten(1), dim=1)
    clustering = AgglomerativeClustering(
        n_clusters=None, distance_threshold=delta, metric="precomputed", linkage="complete"
    ).fit((1 - flat @ flat.T).clamp(min=0).numpy())
    labels = torch.from_numpy(clustering.labels_)
    count = int(labels.max()) + 1
    merged = _spanning_0_to_1(torch.stack([masks[labels == label].sum(dim=0) for label in range(count)]))

    noise = noise_std * torch.randn((count, *x.shape), generator=torch.Generator().manual_seed(seed))
    kept = merged[:, None]
    noise = noise * (1 - kept)
    started_s, masked_s = time.process_time(), 0.0
    changes = []
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        first, second = x * kept[part] + noise[part], x + noise[part]
        started_s = time.process_time()
        changes.append(scorer(first)[:, c] - scorer(second)[:, c])
        masked_s += time.process_time() - started_s
    scores = torch.cat(changes) + p_x[c]
    values = (scores[:, None, None] * merged).sum(dim=0) / merged.sum(dim=0) / count
    return values.nan_to_num().numpy(), count, masked_s


def _spanning_0_to_1(masks: Tensor) -> Tensor:
    low, high = (masks.flatten(1).aminmax(dim=1).min, masks.flatten(1).aminmax(dim=1).max)
    varies = high > low
    low, high = low[varies, None, None], high[varies, None, None]
    return (masks[varies] - low) / (high - low)
