"""Which of ViT-CX's second images are worth a forward pass.

The second image's part of a score, d_i = p_c(x) - p_c(x + e_i (1 - M_i)), is what faint noise alone does to the
answer for the whole image. For most frames it changes nothing that can be seen in the map; for a head that takes
maxima over patches it may change much. So the adaptive mode runs the second images of the masks that weigh most
in the map, puts the mean of what it found in the place of the others, and goes on until what is left can
change the map's Pearson correlation by no more than a tolerance:

    S = sum_i W_i s_i,  W_i = M_i / (N sum_j M_j)
    1 - r  =~  1/2 var(sum_left W_i (d_i - mean)) / var(S)  =~  1/2 sigma^2 sum_left var(W_i) / var(S)

with var over the feature grid, the d_i taken as independent, and sigma^2 its upper 95 % bound from those run.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

TOLERANCE: Final = 5e-4
"""Of 1 - r: half of what the default mode may lose."""
_AT_ONCE: Final = 8


def next_seconds(masks: Tensor, first: Tensor, differences: Tensor) -> Tensor:
    """The masks whose second images to run next, the weightiest first; none if the map is good enough.

    Args:
        masks: (N, h, w) on the feature grid.
        first: (N,) p_c of the first images.
        differences: (N,) d_i; NaN where it was not run.

    Returns:
        int64 (K,), at most 8.
    """
    weights = masks.double().flatten(1)
    weights = weights / (len(masks) * weights.sum(dim=0)).clamp_min(1e-12)  # W_i
    spread = weights.var(dim=1, correction=0)  # var(W_i)
    is_left = differences.isnan()
    wanted = torch.where(is_left, spread, -1.0).argsort(descending=True, stable=True)[: int(is_left.sum())]
    if len(wanted) == 0 or _expected_loss(weights, spread, first.double(), differences.double()) <= TOLERANCE:
        return wanted[:0]
    return wanted[:_AT_ONCE]


def filled(differences: Tensor) -> Tensor:
    """(N,) d_i, with the mean of those run in the place of the others; 0 if none was run."""
    is_left = differences.isnan()
    return torch.where(is_left, differences[~is_left].mean() if bool((~is_left).any()) else 0.0, differences)


def _expected_loss(weights: Tensor, spread: Tensor, first: Tensor, differences: Tensor) -> float:
    """An upper bound of 1 - r, see above."""
    is_left = differences.isnan()
    known = differences[~is_left]
    if len(known) < min(_AT_ONCE, len(differences)):
        return math.inf
    signal = float(torch.tensordot(first + filled(differences), weights, dims=1).var(correction=0))
    noise = float(known.var()) * _upper(len(known) - 1) * float(spread[is_left].sum())
    return 0.5 * noise / signal if signal > 0 else math.inf


def _upper(freedom: int) -> float:
    """Upper 95 % bound of a variance divided by its estimate (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return float((1 - part - 1.645 * math.sqrt(part)) ** -3)
