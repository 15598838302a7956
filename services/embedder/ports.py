"""What the embedder needs from outside, besides the archive and the vector index."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import TransientError
from shared.events import Event
from shared.vision.features import Features


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
    def input_size_px(self) -> int:
        """Side of the square model input."""

    @property
    def batch_size(self) -> int:
        """Frames in one forward pass."""

    def encode_inputs(self, pixels: NDArray[np.float32]) -> Features:
        """Features of (N, 3, S, S) model inputs."""


class Publisher(Protocol):
    """Where events go out."""

    async def publish(self, topic: str, event: Event) -> None:
        """Return once `event` is acknowledged; raise BrokerUnavailableError otherwise."""
