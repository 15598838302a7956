"""What the query service needs from the vision room: an encoder of frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.pixels.frame import Frame


class FrameFeatures(Protocol):
    """Features of N frames."""

    @property
    def cls(self) -> NDArray[np.float32]:
        """(N, D) class tokens, of any norm."""

    @property
    def patches(self) -> NDArray[np.float32] | None:
        """(N, P, D) patch tokens of a square grid, row by row; None: not kept."""

    def embeddings(self) -> NDArray[np.float32]:
        """(N, D), each row of L2 norm 1."""


class Encoder(Protocol):
    """Frames to embeddings; `shared.vision.backbone.Backbone` is one. May block for seconds."""

    @property
    def id(self) -> str:
        """The backbone's id, part of every vector's identity."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def input_size_px(self) -> int:
        """Side of the square that a frame is letterboxed into."""

    def encode(self, frames: Sequence[Frame]) -> FrameFeatures:
        """Embed `frames`."""
