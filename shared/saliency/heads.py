"""A head's class probabilities in torch, on the rows that `forwards` makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from shared.errors import WeightsError
from shared.vision.heads import LinearHead
from shared.vision.patch_lens import LARGEST, LEAST_COUNT, PatchLens


class Head(Protocol):
    """What turns feature rows into an answer."""

    def __call__(self, rows: Tensor) -> Tensor:
        """(B, C) class probabilities of (B, F): by softmax where classes exclude each other, by sigmoid where not."""

    def logits(self, rows: Tensor) -> Tensor:
        """(B, C) what they are made from."""


Scorer = Callable[[Tensor], Tensor]
"""Model inputs (B, 3, H, W), normalised, to class probabilities (B, C)."""


def scorer(forward: Callable[[Tensor], Tensor], head: Head) -> Scorer:
    """A head's answers by a forward pass, see `forwards`."""
    return lambda pixels: head(forward(pixels))


class TorchHead:
    """`LinearHead.probabilities` of `LinearHead.logits` of `LinearHead.read`, differentiable.

    Rows are a class token (D), `Features.middle` (3D) and, for heads with a lens, `Features.patches` (P D).
    """

    def __init__(self, head: LinearHead, device: torch.device) -> None:
        # The standardisation is folded into the weights, in float64: one product a batch.
        scale, mean = (torch.from_numpy(values).double() for values in (head.feature_scale, head.feature_mean))
        weight = torch.from_numpy(head.weight).double() / scale / head.temperature
        self._bias = (torch.from_numpy(head.bias).double() / head.temperature - weight @ mean).to(device)
        self._weight = weight.to(device)
        self._lens, self._task = head.lens, head.task
        self._joined = head.weight.shape[1] - (0 if head.lens is None else head.lens.columns)
        self._width = self._joined // 4
        self.labels = head.labels

    def logits(self, rows: Tensor) -> Tensor:
        """(B, C) float64 calibrated logits.

        Raises:
            WeightsError: the head reads patches, and the rows have none.
        """
        read = rows[:, : self._joined]
        if self._lens is not None:
            patches = rows[:, self._joined :]
            if patches.shape[1] == 0:
                raise WeightsError(f"head of {self._task} reads patch tokens, which this backbone does not keep")
            read = torch.cat([read, lens_figures(self._lens, patches.reshape(len(rows), -1, self._width))], dim=1)
        return read.double() @ self._weight.T + self._bias

    def __call__(self, rows: Tensor) -> Tensor:
        """(B, C) probabilities, float32."""
        return torch.softmax(self.logits(rows), dim=1).float()


def lens_figures(lens: PatchLens, patches: Tensor) -> Tensor:
    """`PatchLens.__call__` by torch: float64 (B, columns) of (B, P, D)."""
    weight, bias = (torch.from_numpy(values).to(patches.device) for values in (lens.weight, lens.bias))
    logits = (patches @ weight.T).double() + bias
    margins = logits[..., 1:] - logits[..., :1]
    descending = margins.sort(dim=1, descending=True).values
    means = [descending[:, :count].mean(dim=1) for count in LARGEST]
    counts = torch.log(torch.softmax(logits, dim=2)[..., 1:].sum(dim=1) + LEAST_COUNT)
    return torch.cat([*means, torch.logsumexp(margins, dim=1), counts], dim=1)
