"""A cheap encoder for the step's logic; the real backbone has its own tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from embedder_studies import made_up_task
from numpy.typing import NDArray

from services.embedder.embed_study import EmbedStudy
from shared.archive import MemoryArchive
from shared.pixels import PixelLimits
from shared.settings import VisionSettings
from shared.vector_index.memory import MemoryIndex
from shared.vision.features import Features

if TYPE_CHECKING:
    from shared.vision.backbone import Backbone


@dataclass
class PooledPixels:
    """A working encoder without a model: block means of the input."""

    id: str = "pooled@1-t1s28"
    input_size_px: int = 28
    batch_size: int = 4
    dim: int = 16
    encoded: list[int] = field(default_factory=list)

    def encode_squares(self, squares: Sequence[NDArray[np.float32]]) -> Features:
        self.encoded.append(len(squares))
        grey = np.stack([square if square.ndim == 2 else square.mean(axis=2) for square in squares])
        blocks = grey.reshape(-1, 4, 7, 4, 7).mean(axis=(2, 4)).reshape(-1, 16) + 0.01
        return Features(blocks, np.tile(blocks, (1, 3)))


@pytest.fixture(scope="session")
def real_backbone() -> Backbone:
    """The default backbone, loaded once: it takes seconds."""
    from shared.vision.backbone import load_backbone

    return load_backbone(VisionSettings(device="cpu", batch_size=4))


@pytest.fixture
def encoder() -> PooledPixels:
    return PooledPixels()


@pytest.fixture
def archive() -> MemoryArchive:
    return MemoryArchive()


@pytest.fixture
def index(encoder: PooledPixels) -> MemoryIndex:
    return MemoryIndex(encoder.dim)


@pytest.fixture
def embed(archive: MemoryArchive, encoder: PooledPixels, index: MemoryIndex) -> EmbedStudy:
    return EmbedStudy(archive, encoder, (made_up_task(encoder.id, encoder.dim),), index, PixelLimits())
