"""What goes into an explanation, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import NotExplainableError
from shared.saliency.heads import Head


@dataclass(frozen=True)
class Request:
    """An image to explain.

    Attributes:
        x: (3, H, W), normalised, on the backbone's device.
        head: What to ask for class probabilities.
        seed: Of the noise or of the random masks, below 2^32.
        target: The class to explain; None: the most probable one.
    """

    x: Tensor
    head: Head
    seed: int
    target: int | None = None


def _no_scores() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


def _no_clusters() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class SaliencyMap:
    """A saliency map and what it was made from.

    Attributes:
        values: float32 (H, W), not normalised; ViT-CX's is signed, and 0 where no mask reaches.
        method: vit-cx, rise, rollout or legrad.
        mode: How it was run, see `modes`.
        seed: Of the request.
        target: The explained class c.
        probability: p_c(x), by the float32 model.
        forwards: Images that went through the backbone.
        scores: float32 (N,), ViT-CX's s_i and RISE's p_c of masked images; else none.
        clusters: int64 (D,), for ViT-CX each feature map's cluster, numbered by its first member, -1 if dropped.
        facts: What else tells how the map came about, ready for JSON.
    """

    values: NDArray[np.float32]
    method: str
    mode: str
    seed: int
    target: int
    probability: float
    forwards: int
    scores: NDArray[np.float32] = field(default_factory=_no_scores)
    clusters: NDArray[np.int64] = field(default_factory=_no_clusters)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def mask_count(self) -> int:
        """N in the papers."""
        return len(self.scores)


Outcome = SaliencyMap | NotExplainableError
"""A map, or why there is none: one image's failure must not take the others of its batch along."""


@dataclass(frozen=True, slots=True)
class Unforeseen:
    """Nobody foresaw why there is no map: whoever asked for it raises `error`, the others of the batch go on."""

    error: Exception


Ended = Outcome | Unforeseen
"""How the work on one image ended."""


def chosen(p_x: Tensor, target: int | None) -> int:
    """The class to explain, of (C,) probabilities."""
    return int(p_x.argmax()) if target is None else target


def finite(probabilities: Tensor) -> Tensor:
    """The same probabilities.

    Raises:
        NotExplainableError: one of them is not finite.
    """
    if not bool(torch.isfinite(probabilities).all()):
        raise NotExplainableError("the classifier gave a score that is not finite")
    return probabilities
