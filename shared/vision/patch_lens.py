"""A patch lens: a linear probe on single patches, pooled to a few figures of the frame.

Class token and pooled patches say little of a lesion that fills three patches of 256. A probe that is trained
on single patches, with the lesion's exact mask, sees it; where it is sure, and how many patches it is sure of,
is pooled over the frame (noisy labels aside, the instance space of Amores 2013, "Multiple instance
classification"). The result is a function of one frame alone. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LARGEST: Final = (1, 4, 10)
"""Means over so many of the largest margins."""

POOLED: Final = len(LARGEST) + 2
"""Figures for each finding: those means, the log-sum-exp, the logarithm of the soft count of patches."""

LEAST_COUNT: Final = 0.05  # patches: below it, the soft count is lost in rounding


@dataclass(frozen=True, slots=True)
class PatchLens:
    """Logits of a patch: patch @ weight.T + bias. The first row is "nothing here", then come K findings.

    Attributes:
        weight: float32 (1 + K, D).
        bias: float32 (1 + K,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def columns(self) -> int:
        """How many figures of a frame it gives."""
        return POOLED * (len(self.bias) - 1)

    def logits(self, patches: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, P, 1 + K) of (N, P, D) patch tokens."""
        products = np.asarray(patches, np.float32) @ self.weight.T
        logits: NDArray[np.float64] = products.astype(np.float64) + self.bias
        return logits

    def __call__(self, patches: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, `columns`) figures of the frames of (N, P, D) patch tokens: each figure of all findings, in turn."""
        logits = self.logits(patches)
        margins = logits[..., 1:] - logits[..., :1]
        descending = -np.sort(-margins, axis=1)
        means = [descending[:, :count].mean(axis=1) for count in LARGEST]
        top = descending[:, 0]
        sums = top + np.log(np.exp(margins - top[:, None]).sum(axis=1))
        exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares = exponentials[..., 1:] / exponentials.sum(axis=2, keepdims=True)
        counts = np.log(shares.sum(axis=1) + LEAST_COUNT)
        return np.concatenate([*means, sums, counts], axis=1).astype(np.float32)
