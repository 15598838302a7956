"""What is kept of a batch's features, frame by frame: not the patch tokens, but what was read and pooled of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from shared.vision.features import Features

Reader = Callable[[Features], NDArray[np.float32]]
"""(N, F) of N frames' features: what a head reads. It is called at once, so that patch tokens need not be kept."""

Weights = NDArray[np.float32]
"""(C, P) of one frame: its product with the frame's patch tokens is kept in their place."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Features of N frames, without their patch tokens.

    Attributes:
        read: By the task's name: (N, F), what its head reads.
        pooled: N times (C, D), the frame's weights times its patch tokens; C is 0 without weights or tokens.
    """

    features: Features
    read: Mapping[str, NDArray[np.float32]]
    pooled: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, features: Features, readers: Mapping[str, Reader], weights: Sequence[Weights | None]) -> Self:
        """What is kept of N frames, with the weights of each. Raises what a reader raises."""
        read = {name: reader(features) for name, reader in readers.items()}
        # Frame by frame, so that no figure depends on the others of the batch.
        pooled = tuple(_pooled(features, row, of_row) for row, of_row in enumerate(weights))
        return cls(Features(features.cls, features.middle), read, pooled)

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """The frames of all `parts`, at least one."""
        return cls(
            Features.concatenated([part.features for part in parts]),
            {name: np.concatenate([part.read[name] for part in parts]) for name in parts[0].read},
            tuple(pooled for part in parts for pooled in part.pooled),
        )

    @classmethod
    def none(cls, dim: int) -> Self:
        """Of no frame."""
        return cls(Features(np.empty((0, dim), np.float32), np.empty((0, 3 * dim), np.float32)), {}, ())

    def is_finite(self) -> bool:
        """Whether every figure is."""
        return all(np.isfinite(array).all() for array in (self.features.joined(), *self.read.values(), *self.pooled))


def _pooled(features: Features, row: int, weights: Weights | None) -> NDArray[np.float32]:
    if weights is None or features.patches is None:
        return np.empty((0, features.cls.shape[1]), np.float32)
    pooled: NDArray[np.float32] = weights @ features.patches[row]
    return pooled
