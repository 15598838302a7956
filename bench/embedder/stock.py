"""The stock pipeline, as its libraries' documentation writes it: pydicom, AutoImageProcessor, AutoModel, float32."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from transformers import AutoImageProcessor, AutoModel


class Stock:
    """A folder in Hugging Face layout, loaded as most would."""

    def __init__(self, folder: Path) -> None:
        """Load processor and model; without torchvision the processor works with Pillow."""
        processors: Any = AutoImageProcessor
        self.processor = processors.from_pretrained(folder, backend="pil")
        self.model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def load(self, data: bytes) -> NDArray[np.float32]:
        """(3, S, S) normalised pixels of one object."""
        dataset = dcmread(io.BytesIO(data))
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        low, high = values.min(), values.max()
        grey = ((values - low) / (high - low) * 255).astype(np.uint8)
        pixels: NDArray[np.float32] = self.processor(
            np.repeat(grey[..., None], 3, axis=2), return_tensors="np", do_center_crop=False
        )["pixel_values"][0]
        return pixels

    def embed(self, objects: Sequence[bytes], batch: int) -> NDArray[np.float32]:
        """(N, D) class tokens."""
        rows = []
        with torch.inference_mode():
            for start in range(0, len(objects), batch):
                pixels = np.stack([self.load(data) for data in objects[start : start + batch]])
                rows.append(self.model(pixel_values=torch.from_numpy(pixels)).last_hidden_state[:, 0].numpy())
        return np.concatenate(rows)
