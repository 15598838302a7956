"""What a backbone makes of frames. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

JOINED_VERSION: Final = "cls-middle-1"
"""Raise it when `Features.joined` changes: heads must then be trained again."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the backbone makes of N frames, after its last LayerNorm.

    The maximum over the patches of a middle block keeps a small lesion that a mean dilutes and that the last
    blocks forget: on the brain phantom it lifts a study's accuracy from .68 to .81
    (47 studies).

    Attributes:
        cls: (N, D) class token.
        middle: (N, 3D) class token, mean and maximum of the patch tokens (registers left out) after five sixths
            of the blocks.
    """

    cls: NDArray[np.float32]
    middle: NDArray[np.float32]

    def embeddings(self) -> NDArray[np.float32]:
        """(N, D) class tokens of L2 norm 1: what is indexed and searched."""
        normalised: NDArray[np.float32] = self.cls / np.linalg.norm(self.cls, axis=1, keepdims=True)
        return normalised

    def joined(self) -> NDArray[np.float32]:
        """(N, 4D) cls, then middle: what heads read."""
        return np.concatenate([self.cls, self.middle], axis=1)
