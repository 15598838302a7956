"""Small DINOv2 folders with random weights: for the loading code, never for use."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from shared.settings import VisionSettings

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 42,
    "patch_size": 14,
}


def save_small(folder: Path, *, registers: bool = False, **config: object) -> Path:
    torch.manual_seed(0)
    values = {**SMALL, **config}
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**values, num_register_tokens=4))
        if registers
        else Dinov2Model(Dinov2Config(**values))
    )
    model.save_pretrained(folder)
    return folder


def small_settings(folder: Path, **values: object) -> VisionSettings:
    fixed = {"backbone": str(folder), "input_size_px": 28, "batch_size": 3, "device": "cpu", "precision": "float32"}
    return VisionSettings.model_validate(fixed | values)
