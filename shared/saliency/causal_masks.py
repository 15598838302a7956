"""Steps 2 to 4 of ViT-CX: feature maps become masks, and masks that look alike become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from shared.errors import NotExplainableError
from shared.saliency.upsampling import Upsampling


@dataclass(frozen=True)
class CausalMasks:
    """The masks M_i of one image, kept on the feature grid.

    Attributes:
        grid: float64 (N, h, w); up-sampled, each spans 0 to 1.
        upsampling: To the image's size.
        clusters: int64 (D,) on the CPU: each feature map's mask, numbered by its first member; -1 if dropped.
    """

    grid: Tensor
    upsampling: Upsampling
    clusters: Tensor

    def __len__(self) -> int:
        return len(self.grid)

    def full_size(self, numbers: Sequence[int]) -> Tensor:
        """M_i of these i, float32 (len(numbers), H, W)."""
        return self.upsampling(self.grid[list(numbers)]).clamp_(0.0, 1.0).float()


def causal_masks(features: Tensor, size: tuple[int, int], delta: float, *, max_masks: int | None = None) -> CausalMasks:
    """The masks of feature maps.

    Args:
        features: F float64 (D, h, w), on any device.
        size: (H, W) of the image.
        delta: Masks closer than this (1 - cosine) may share a cluster.
        max_masks: Merge on beyond `delta` until no more than so many clusters are left.

    Raises:
        NotExplainableError: no feature map varies over the image, or no cluster of them does.
    """
    device, maps = features.device, features.cpu()
    upsampling = Upsampling.between((maps.shape[1], maps.shape[2]), size)
    maps, varies = upsampling.spanning_0_to_1(maps)
    if len(maps) == 0:
        raise NotExplainableError("no feature map of the backbone varies over this image")
    labels = complete_linkage(_distances(upsampling.inner_products(maps)), delta, max_clusters=max_masks)
    sums = torch.zeros(int(labels.max()) + 1, *maps.shape[1:], dtype=torch.float64).index_add_(0, labels, maps)
    # A cluster whose masks add up to the same value everywhere says nothing of where.
    sums, differs = upsampling.spanning_0_to_1(sums)
    if len(sums) == 0:
        raise NotExplainableError("no cluster of feature maps varies over this image")
    renumbered = torch.where(differs, differs.cumsum(dim=0) - 1, -1)
    clusters = torch.full((len(features),), -1, dtype=torch.int64)
    clusters[varies] = renumbered[labels]
    return CausalMasks(sums.to(device), upsampling.to(device), clusters)


def _distances(gram: Tensor) -> NDArray[np.float64]:
    """1 - cosine between all pairs, condensed as scipy wants it, of the inner products (K, K)."""
    norms = gram.diagonal().sqrt()
    cosine = gram / norms[:, None] / norms[None, :]
    upper = torch.triu_indices(len(gram), len(gram), offset=1)
    return (1.0 - cosine[upper[0], upper[1]]).clamp_(min=0.0).numpy()


def complete_linkage(distances: NDArray[np.float64], delta: float, *, max_clusters: int | None = None) -> Tensor:
    """Cluster labels, numbered by first member. Clusters merge while their distance is below delta."""
    if len(distances) == 0:
        return torch.zeros(1, dtype=torch.int64)
    tree = linkage(distances, method="complete")
    # fcluster merges up to and including its threshold.
    found = fcluster(tree, np.nextafter(delta, 0.0), criterion="distance")
    if max_clusters is not None and found.max() > max_clusters:
        found = fcluster(tree, max_clusters, criterion="maxclust")
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[inverse])
