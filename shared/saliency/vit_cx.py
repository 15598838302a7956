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

Bilinear up-sampling is linear, so all but step 5 happens on the feature grid, in float64: see `causal_masks`.
Full-size masks are made for one batch of step 5 at a time, see `masked_queue`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from shared.saliency.causal_masks import causal_masks
from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Request, SaliencyMap, chosen, finite
from shared.saliency.second_passes import filled, next_seconds
from shared.saliency.seeds import standard_normal

METHOD: Final = "vit-cx"

Seconds = Literal["all", "needed", "none"]
"""Which second images of step 5 are run; `needed`: see `second_passes`."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the algorithm leaves open; the defaults are those of the authors' code.

    Attributes:
        delta: Masks closer than this (1 - cosine) may share a cluster.
        noise_std: Standard deviation of e_i, in normalised pixel units.
        fill: What stands where a mask removes the image, per channel, in normalised pixel units. 0 is
            the mean colour of ImageNet, a mid-grey.
        max_masks: Merge on beyond delta until no more than so many masks are left; None: no limit.
    """

    delta: float = 0.1
    noise_std: float = 0.1
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    max_masks: int | None = None


class ViTCX:
    """ViT-CX of one image, step by step. `masked_queue` runs many at a time."""

    def __init__(
        self,
        model: ExplainedModel,
        request: Request,
        parameters: Parameters | None = None,
        *,
        mode: str = "exact",
        seconds: Seconds = "all",
    ) -> None:
        """Steps 1 to 4, with one forward pass.

        Args:
            model: Gives F and p(x).
            request: x, p, c and the seed of e.
            parameters: Of the algorithm; by default the authors'.
            mode: How it is run, for the result.
            seconds: Which second images are run.

        Raises:
            NotExplainableError: p(x) is not finite, or no feature map varies over the image.
        """
        self._request, self._mode, self._seconds = request, mode, seconds
        self._parameters = parameters or Parameters()
        features, row = model.clean_pass(request.x)
        p_x = finite(request.head(row))[0]
        self._c = chosen(p_x, request.target)
        self._p_x = p_x[self._c]
        self._masks = causal_masks(features, self._size, self._parameters.delta, max_masks=self._parameters.max_masks)
        self._p = torch.full((2, len(self._masks)), torch.nan, device=request.x.device)  # p_c of first and second
        kinds = (0, 1) if seconds == "all" else (0,)
        self._to_run = deque((kind, i) for i in range(len(self._masks)) for kind in kinds)
        self._running: deque[list[tuple[int, int]]] = deque()

    @property
    def waiting(self) -> int:
        """Images that can be run now."""
        return len(self._to_run)

    def images(self, count: int) -> Tensor:
        """Step 5: the next `count` images, float32 (count, 3, H, W)."""
        batch = [self._to_run.popleft() for _ in range(count)]
        self._running.append(batch)
        x = self._request.x
        M = self._masks.full_size([i for _, i in batch])[:, None]  # noqa: N806
        removed = 1.0 - M
        e = torch.stack([standard_normal(self._request.seed, i, tuple(x.shape), x.device) for _, i in batch])
        images = e.mul_(self._parameters.noise_std).mul_(removed)
        fill = x.new_tensor(self._parameters.fill)[:, None, None]
        for image, (kind, _), mask, rest in zip(images, batch, M, removed, strict=True):
            if kind == 0:
                image.addcmul_(x, mask).addcmul_(fill, rest)
            else:
                image.add_(x)
        return images

    def take(self, rows: Tensor) -> None:
        """Take the feature rows of the images that `images` gave first.

        Raises:
            NotExplainableError: a score is not finite.
        """
        kinds, numbers = zip(*self._running.popleft(), strict=True)
        self._p[kinds, numbers] = finite(self._request.head(rows))[:, self._c]
        if self._seconds == "needed" and not self._to_run and not self._running:
            wanted = next_seconds(self._masks.grid, self._p[0], self._p_x - self._p[1])
            self._to_run.extend((1, i) for i in wanted.tolist())

    def result(self) -> SaliencyMap:
        """Steps 6 and 7, once no image is waiting and all rows were taken."""
        masks = self._masks
        s = self._p[0] + filled(self._p_x - self._p[1])
        weighted = masks.upsampling(torch.tensordot(s.double(), masks.grid, dims=1))
        covered = masks.upsampling(masks.grid.sum(dim=0))
        # Up-sampling leaves rounding, not 0, where no mask reaches.
        S = torch.where(covered > 1e-9, weighted / covered, 0.0) / len(masks)  # noqa: N806
        seconds = int((~self._p[1].isnan()).sum())
        return SaliencyMap(
            values=S.float().cpu().numpy(),
            method=METHOD,
            mode=self._mode,
            seed=self._request.seed,
            target=self._c,
            probability=float(self._p_x),
            forwards=1 + len(masks) + seconds,
            scores=s.float().cpu().numpy(),
            clusters=masks.clusters.numpy(),
            facts={
                **asdict(self._parameters),
                "second_passes": seconds,
                "feature_maps_dropped": int((masks.clusters < 0).sum()),
            },
        )

    @property
    def _size(self) -> tuple[int, int]:
        return self._request.x.shape[1], self._request.x.shape[2]
