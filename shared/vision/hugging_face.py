"""The Hugging Face model: what explanations hook into, and the oracle of the fast forward.

Importing transformers costs seconds and a hundred megabytes, so only those who ask for the model pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Dinov2Model, Dinov2WithRegistersModel
from transformers.utils import logging as transformers_logging

from shared.errors import WeightsError


def load_model(folder: Path, device: torch.device) -> Dinov2Model:
    """The model of a folder that `checkpoint.read_checkpoint` accepts: float32, eval mode, frozen.

    Raises:
        WeightsError: the folder cannot be loaded, or weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        kind: Any = Dinov2Model if config.model_type == "dinov2" else Dinov2WithRegistersModel
        with _quiet_progress():
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # unreadable JSON, a safetensors error, a shape mismatch (RuntimeError)
        raise WeightsError(f"{folder} is not a loadable DINOv2 folder: {error}") from error
    # Hugging Face only warns, and starts what is missing at random; the mask token is of the pre-training.
    if missing := {name for name in report["missing_keys"] if name != "embeddings.mask_token"}:
        raise WeightsError(f"{folder} lacks weights: {', '.join(sorted(missing)[:5])} ({len(missing)} in all)")
    torch.nn.Module.to(model, device)
    frozen: Dinov2Model = model.eval().requires_grad_(False)
    return frozen


@contextmanager
def _quiet_progress() -> Iterator[None]:
    """Keep the loader's progress bar, which takes a blink, out of a service's log."""
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
