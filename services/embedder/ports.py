"""What the embedder needs from outside, besides the archive and the vector index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import TransientError
from shared.events import Event
from shared.vision.features import Features

Square = NDArray[np.float32]
"""A letterboxed frame in [0, 1]: (S, S) grey or (S, S, 3) RGB."""


class StoppingError(TransientError):
    """The service stops; the study is left for the next worker."""


class ContestedPointsError(TransientError):
    """Several embedders write one study's points at the same time."""


class Encoder(Protocol):
    """A frozen backbone. One call takes seconds; calls do not overlap."""

    @property
    def id(self) -> str:
        """Part of every vector's identity."""

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""

    @property
    def input_size_px(self) -> int:
        """Side of the square model input."""

    @property
    def batch_size(self) -> int:
        """Frames in one forward pass."""

    def encode_squares(self, squares: Sequence[Square]) -> Features:
        """Features of letterboxed frames, grey and colour in any order. No vector depends on the others."""


class Publisher(Protocol):
    """Where events go out."""

    async def publish(self, topic: str, event: Event) -> None:
        """Return once `event` is acknowledged; raise BrokerUnavailableError otherwise."""
