"""A cheap encoder for the step's logic; the real backbone has its own tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from embedder_studies import made_up_task
from numpy.typing import NDArray

from services.embedder.embed_study import EmbedStudy
from shared.archive import MemoryArchive
from shared.pixels import PixelLimits
from shared.vector_index.memory import MemoryIndex
from shared.vision.features import Features


@dataclass
class PooledPixels:
    """A working encoder without a model: block means of the input."""

    id: str = "pooled@1-t1s28"
    input_size_px: int = 28
    batch_size: int = 4
    dim: int = 16
    encoded: list[int] = field(default_factory=list)

    def encode_inputs(self, pixels: NDArray[np.float32]) -> Features:
        self.encoded.append(len(pixels))
        blocks = pixels[:, 0].reshape(-1, 4, 7, 4, 7).mean(axis=(2, 4)).reshape(-1, 16)
        return Features(blocks, np.tile(blocks, (1, 3)))


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
