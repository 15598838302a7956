"""Other models to set beside the backbone: any Hugging Face folder, and the backbone's own shape with random weights.

Each gives a class token (or a pooled map) and the mean of its patches, nothing tuned to it: what a linear probe on a
kept model is given. Needs torch; imported only where a comparison is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel

from shared.errors import WeightsError
from shared.pixels import Frame
from shared.vision.features import Features
from shared.vision.safetensors_hash import content_sha256
from shared.vision.transform import IMAGENET_MEAN, IMAGENET_STD, letterboxed

_BATCH: Final = 16
_DEFAULT_SIZE_PX: Final = 224


@dataclass(frozen=True, slots=True, eq=False)
class ComparedEncoder:
    """A frozen image model of the Hugging Face library.

    Attributes:
        id: Name and hash of weights and normalisation, for the feature cache.
        name: As tables call it.
        model: In eval mode, float32.
        size_px: Side of its square input.
        mean: (3,) of its normalisation.
        std: (3,)
    """

    id: str
    name: str
    model: Any
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int

    def encode(self, frames: Sequence[Frame], /) -> Features:
        """(N, F) all in `cls`; `middle` is empty."""
        parts = [self._encode(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
        rows = np.concatenate([np.empty((0, self.dim), np.float32), *parts])
        return Features(rows, np.empty((len(rows), 0), np.float32))

    def _encode(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        pixels = np.stack([self._input(frame) for frame in frames])
        with torch.inference_mode():
            return _pooled(self.model(pixel_values=torch.from_numpy(pixels)).last_hidden_state)

    def _input(self, frame: Frame) -> NDArray[np.float32]:
        square = letterboxed(frame, self.size_px)
        channels = square[None] if square.ndim == 2 else square.transpose(2, 0, 1)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        normalised: NDArray[np.float32] = ((channels - mean) / std).astype(np.float32)
        return normalised


def from_folder(folder: Path) -> ComparedEncoder:
    """The model of a folder in Hugging Face layout: ResNet, ViT, DINOv2, ConvNeXT, ... as `AutoModel` reads it.

    Raises:
        WeightsError: it cannot be read, or is no image model. A folder of the timm library is read only where timm is
            installed: it brings torchvision, which replaces this torch, so Similis does not.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        sha256 = content_sha256(folder)
    except Exception as error:  # a damaged folder fails in many ways
        raise WeightsError(f"--compare {folder.name}: not a readable Hugging Face image model: {error}") from error
    return _encoder(model, folder.name, sha256, *_normalisation(folder, config))


def random_weights(folder: Path, *, seed: int) -> ComparedEncoder:
    """The shape of the model in `folder` with random weights: what the architecture alone gives.

    Raises:
        WeightsError: the folder has no readable config.json.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise WeightsError(f"{folder.name} has no readable config.json: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    shape = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode()).hexdigest()
    return _encoder(model, "random weights, the backbone's shape", f"{shape}-{seed}", *_normalisation(folder, config))


def _encoder(
    model: Any, name: str, sha256: str, size_px: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> ComparedEncoder:
    model = model.eval().requires_grad_(False)
    try:
        with torch.inference_mode():
            width = _pooled(model(pixel_values=torch.zeros(1, 3, size_px, size_px)).last_hidden_state).shape[1]
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{name} is no image model with a last hidden state: {error}") from error
    identity = hashlib.sha256(f"{sha256} {size_px} {mean} {std}".encode()).hexdigest()
    return ComparedEncoder(f"compared-{name}@{identity[:12]}", name, model, size_px, mean, std, width)


def _normalisation(folder: Path, config: Any) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Input size, mean and standard deviation, as the folder's processor has them; else ImageNet's."""
    try:
        processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        processor = {}
    wanted = processor.get("crop_size") or processor.get("size") or {}
    size = wanted.get("height") or wanted.get("shortest_edge") if isinstance(wanted, dict) else wanted
    if not size:
        # DINOv2 names the size of its position table, which it interpolates.
        known = getattr(config, "image_size", None)
        size = known if isinstance(known, int) and known < 2 * _DEFAULT_SIZE_PX else _DEFAULT_SIZE_PX
    patch = getattr(config, "patch_size", None)
    size_px = int(size) // patch * patch if isinstance(patch, int) else int(size)
    mean = tuple(float(value) for value in processor.get("image_mean") or IMAGENET_MEAN)
    std = tuple(float(value) for value in processor.get("image_std") or IMAGENET_STD)
    return size_px, mean, std


def _pooled(hidden: torch.Tensor) -> NDArray[np.float32]:
    """(N, F): of a map (N, C, h, w) its mean; of tokens (N, T, D) the first, and the mean of the others."""
    if hidden.ndim == 4:
        pooled = hidden.mean(dim=(2, 3))
    else:
        pooled = torch.cat([hidden[:, 0], hidden[:, 1:].mean(dim=1)], dim=1)
    rows: NDArray[np.float32] = pooled.float().numpy()
    return rows
