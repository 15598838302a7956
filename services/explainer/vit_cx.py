"""ViT-CX for DINOv2 backbones (Xie, Li, Cao, Zhang: IJCAI 2023, arXiv 2211.03064).

Symbols, as in the paper: image x (3, H, W), classifier p, target class c, delta the merging
threshold, N masks M_i, noise e_i, scores s_i.

    1  F (D, h, w)     tokens behind the last block's first LayerNorm, prefix tokens dropped
    2  D masks         each map up-sampled to (H, W) and min-max normalised
    3  N clusters      complete linkage on 1 - cosine, cut at delta
    4  M_i (H, W)      the sum of a cluster's masks, min-max normalised
    5  two images      x M_i + (fill + e_i)(1 - M_i)   and   x + e_i (1 - M_i)
    6  s_i             p_c(first) - p_c(second) + p_c(x)
    7  S (H, W)        1/N sum_i s_i M_i / sum_j M_j

Step 2 never builds its D full-size masks. Bilinear up-sampling is linear and separable, f -> U f V^T,
and its weights sum to one, so maps are normalised, compared and summed at h x w in float64; only
the N masks of step 4 are made at full size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor
from torch.nn.functional import interpolate

from shared.errors import NotExplainableError

METHOD: Final = "vit-cx"
MODE: Final = "exact-float32"

Scorer = Callable[[Tensor], Tensor]
"""Model inputs (B, 3, H, W) to class probabilities (B, C), by a forward pass of the explained backbone."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the algorithm leaves open; the defaults are those of the authors' code.

    Attributes:
        delta: Masks closer than this (1 - cosine) may share a cluster.
        noise_std: Standard deviation of e_i, in normalised pixel units.
        fill: What stands where a mask removes the image, per channel, in normalised pixel units. 0 is
            the mean colour of ImageNet, a mid-grey.
        batch_size: Images in one forward pass. It does not change the result.
    """

    delta: float = 0.1
    noise_std: float = 0.1
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    batch_size: int = 8


@dataclass(frozen=True, slots=True)
class Saliency:
    """A saliency map and what it was made from.

    Attributes:
        values: float32 (H, W), signed, not normalised; 0 where no mask reaches.
        target: The explained class c.
        probability: p_c(x).
        scores: float32 (N,), the s_i.
        clusters: int64 (D,), each feature map's cluster, numbered by its first member; -1 if dropped.
    """

    values: NDArray[np.float32]
    target: int
    probability: float
    scores: NDArray[np.float32]
    clusters: NDArray[np.int64]

    @property
    def mask_count(self) -> int:
        """N in the paper."""
        return len(self.scores)


def vit_cx(
    backbone: Any,
    scorer: Scorer,
    x: Tensor,
    *,
    seed: int,
    target: int | None = None,
    parameters: Parameters | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Saliency:
    """Explain why `scorer` gives image `x` the class `target`.

    Args:
        backbone: A `Dinov2Model` or `Dinov2WithRegistersModel` in eval mode, the one `scorer` runs.
        scorer: Probabilities by softmax where classes exclude each other, by sigmoid where not.
        x: (3, H, W), normalised, on the backbone's device. H and W may differ.
        seed: Of the noise, below 2^32. The same seed gives the same noise on every device.
        target: The class to explain; by default the most probable one.
        parameters: Of the algorithm; by default the authors'.
        progress: Called after each forward pass.

    Raises:
        NotExplainableError: a score is not finite, or no feature map varies over the image.
    """
    parameters = parameters or Parameters()
    with torch.inference_mode():
        features, p_x = _clean_pass(backbone, scorer, x)
        progress()
        c = int(p_x.argmax()) if target is None else target
        masks, clusters = _causal_masks(features, (x.shape[1], x.shape[2]), parameters.delta)
        scores = p_x[c].cpu() + _score_changes(scorer, x, masks, c, seed, parameters, progress)
        values = torch.tensordot(scores.double(), masks.double(), dims=1) / len(masks)
        covered = masks.double().sum(dim=0)
        values = torch.where(covered > 0, values / covered, 0.0)
    return Saliency(
        values=values.float().numpy(),
        target=c,
        probability=float(p_x[c]),
        scores=scores.numpy(),
        clusters=clusters.numpy(),
    )


def _clean_pass(backbone: Any, scorer: Scorer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Step 1 and p(x) by one forward pass: F (D, h, w) float64 on the CPU, p(x) (C,)."""
    seen: list[Tensor] = []
    hook = backbone.encoder.layer[-1].norm1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        p_x = _finite(scorer(x[None]))[0]
    finally:
        hook.remove()
    if len(seen) != 1:
        raise ValueError(f"the scorer ran the backbone {len(seen)} times on one image, not once")
    config = backbone.config
    prefix = 1 + getattr(config, "num_register_tokens", 0)  # CLS and registers
    h, w = x.shape[1] // config.patch_size, x.shape[2] // config.patch_size
    tokens = seen[0][0, prefix:]  # (h w, D)
    return tokens.T.reshape(-1, h, w).double().cpu(), p_x


def _causal_masks(features: Tensor, size: tuple[int, int], delta: float) -> tuple[Tensor, Tensor]:
    """Steps 2 to 4: the masks M float32 (N, H, W), and the cluster of each feature map int64 (D,)."""
    u, v = _upsampling(features.shape[1], size[0]), _upsampling(features.shape[2], size[1])
    maps, varies = _normalised(features, u, v)
    if len(maps) == 0:
        raise NotExplainableError("no feature map of the backbone varies over this image")
    labels = _complete_linkage(_distances(maps, u, v), delta)
    sums = torch.zeros(int(labels.max()) + 1, *maps.shape[1:], dtype=torch.float64).index_add_(0, labels, maps)
    # A cluster whose masks add up to the same value everywhere says nothing of where.
    sums, differs = _normalised(sums, u, v)
    if len(sums) == 0:
        raise NotExplainableError("no cluster of feature maps varies over this image")
    renumbered = torch.where(differs, differs.cumsum(dim=0) - 1, -1)
    clusters = torch.full((len(features),), -1, dtype=torch.int64)
    clusters[varies] = renumbered[labels]
    return (u @ sums @ v.T).clamp_(0.0, 1.0).float(), clusters


def _upsampling(samples: int, size: int) -> Tensor:
    """The matrix (size, samples) of one axis of bilinear up-sampling with align_corners=False; its rows sum to 1."""
    identity = torch.eye(samples, dtype=torch.float64)
    return interpolate(identity[None], size=size, mode="linear", align_corners=False)[0].T.contiguous()


def _normalised(maps: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale each map so that, up-sampled, it spans 0 to 1.

    Returns the maps that vary, (K, h, w), and which ones do, (D,). An up-sampled map is bilinear within
    each cell of the feature grid, so its extremes lie on the first or last sample of some cell.
    """
    corners = u[_cell_ends(u)] @ maps @ v[_cell_ends(v)].T
    low, high = corners.amin(dim=(1, 2)), corners.amax(dim=(1, 2))
    # Features are float32: a spread below their rounding is none.
    rounding = 4 * torch.finfo(torch.float32).eps * corners.abs().amax(dim=(1, 2))
    varies = high - low > rounding
    low, high = low[varies, None, None], high[varies, None, None]
    return (maps[varies] - low) / (high - low), varies


def _cell_ends(u: Tensor) -> Tensor:
    """Which rows of an up-sampling matrix are the first or last sample between two grid points, (size,)."""
    cell = (u > 0).int().argmax(dim=1)
    changes = cell[1:] != cell[:-1]
    end = torch.ones(1, dtype=torch.bool)
    return torch.cat([end, changes]) | torch.cat([changes, end])


def _distances(maps: Tensor, u: Tensor, v: Tensor) -> NDArray[np.float64]:
    """1 - cosine between all pairs of up-sampled maps, condensed as scipy wants it.

    <U f V^T, U g V^T> = <f, (U^T U) g (V^T V)>: the inner products of full-size masks, at h x w.
    """
    weighted = (u.T @ u) @ maps @ (v.T @ v)
    gram = maps.flatten(1) @ weighted.flatten(1).T
    norms = gram.diagonal().sqrt()
    cosine = gram / norms[:, None] / norms[None, :]
    upper = torch.triu_indices(len(maps), len(maps), offset=1)
    return (1.0 - cosine[upper[0], upper[1]]).clamp_(min=0.0).numpy()


def _complete_linkage(distances: NDArray[np.float64], delta: float) -> Tensor:
    """Cluster labels, numbered by first member. Clusters merge while their distance is below delta."""
    if len(distances) == 0:
        return torch.zeros(1, dtype=torch.int64)
    # fcluster merges up to and including its threshold.
    found = fcluster(linkage(distances, method="complete"), np.nextafter(delta, 0.0), criterion="distance")
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[inverse])


def _score_changes(
    scorer: Scorer,
    x: Tensor,
    masks: Tensor,
    c: int,
    seed: int,
    parameters: Parameters,
    progress: Callable[[], None],
) -> Tensor:
    """Steps 5 and 6 without the constant p_c(x): float32 (N,) on the CPU."""
    # One generator on the CPU, drawn from mask by mask: neither device nor batch size changes the noise.
    generator = torch.Generator().manual_seed(seed)
    fill = torch.tensor(parameters.fill, dtype=x.dtype, device=x.device)[:, None, None]
    changes = []
    for batch in torch.split(masks, max(1, parameters.batch_size // 2)):
        noise = torch.stack([torch.randn(tuple(x.shape), generator=generator) for _ in batch]) * parameters.noise_std
        kept = batch[:, None].to(x)  # (b, 1, H, W)
        noise = noise.to(x) * (1.0 - kept)
        masked = x * kept + fill * (1.0 - kept) + noise
        p_masked, p_noisy = _finite(scorer(torch.cat([masked, x + noise])))[:, c].chunk(2)
        changes.append((p_masked - p_noisy).cpu())
        progress()
    return torch.cat(changes)


def _finite(probabilities: Tensor) -> Tensor:
    if not bool(torch.isfinite(probabilities).all()):
        raise NotExplainableError("the classifier gave a score that is not finite")
    return probabilities
