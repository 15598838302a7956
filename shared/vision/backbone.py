"""The frozen backbone: frames to features. The one module of `shared` that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, Dinov2Model, Dinov2WithRegistersModel
from transformers.utils import logging as transformers_logging

from shared.errors import WeightsError
from shared.pixels.frame import Frame
from shared.settings import VisionSettings
from shared.vision.features import Features
from shared.vision.transform import to_model_input
from shared.vision.weights import Weights, backbone_id, locate_weights

__all__ = ["Backbone", "Features", "backbone_id", "load_backbone"]

_MODELS: Final[dict[str, Any]] = {"dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}


@dataclass(frozen=True, slots=True)
class Backbone:
    """A DINOv2 model in eval mode, float32, frozen.

    Attributes:
        id: Name, hash of the weights, transform: part of every vector's identity.
        model: The Hugging Face model.
        device: Where it runs.
        input_size_px: Side of the square input, a multiple of `patch_px`.
        batch_size: Frames in one forward pass.
    """

    id: str
    model: Dinov2Model
    device: torch.device
    input_size_px: int
    batch_size: int

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return int(self.model.config.hidden_size)

    @property
    def patch_px(self) -> int:
        """Side of a patch, in input pixels."""
        return _patch_px(self.model.config)

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return 1 + int(getattr(self.model.config, "num_register_tokens", 0))

    def encode(self, frames: Sequence[Frame]) -> Features:
        """Features of frames. Only one batch of model inputs is in memory at a time."""
        size = self.input_size_px
        return self._encode(
            np.stack([to_model_input(frame, size) for frame in batch]) for batch in _batches(frames, self.batch_size)
        )

    def encode_inputs(self, pixels: NDArray[np.float32]) -> Features:
        """Features of (N, 3, S, S) model inputs."""
        return self._encode(pixels[start : start + self.batch_size] for start in range(0, len(pixels), self.batch_size))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cls (N, D) and middle (N, 3D), see `Features`, of (N, 3, H, W) model inputs on the backbone's device."""
        output = self.model(pixel_values=pixels, output_hidden_states=True)
        # hidden_states starts with the embeddings, so that entry n is what block n gave.
        blocks = len(output.hidden_states) - 1
        tokens = self.model.layernorm(output.hidden_states[round(blocks * 5 / 6)])
        patches = tokens[:, self.prefix_tokens :]
        middle = torch.cat([tokens[:, 0], patches.mean(dim=1), patches.amax(dim=1)], dim=1)
        return output.last_hidden_state[:, 0], middle

    def _encode(self, batches: Iterator[NDArray[np.float32]]) -> Features:
        parts: list[NDArray[np.float32]] = [np.empty((0, 4 * self.dim), np.float32)]
        with torch.inference_mode():
            for batch in batches:
                pixels = torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(self.device)
                parts.append(torch.cat(self.forward(pixels), dim=1).cpu().numpy())
        features = np.concatenate(parts)
        return Features(features[:, : self.dim], features[:, self.dim :])


def load_backbone(settings: VisionSettings) -> Backbone:
    """Load the backbone that the settings name. Sets torch's thread count if `threads` is not 0.

    Raises:
        WeightsError: weights are missing, left over, of another shape or not finite, or are not the pinned ones;
            the architecture is not DINOv2; the input size is no multiple of its patches; the device is not there.
    """
    weights = locate_weights(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = _device(settings.device)
    model = _load_strictly(weights)
    patch_px = _patch_px(model.config)
    if settings.input_size_px % patch_px:
        raise WeightsError(
            f"SIMILIS_VISION__INPUT_SIZE_PX={settings.input_size_px} is no multiple of the backbone's {patch_px} px "
            "patches"
        )
    torch.nn.Module.to(model, device)
    return Backbone(weights.backbone_id, model, device, settings.input_size_px, settings.batch_size)


def _load_strictly(weights: Weights) -> Dinov2Model:
    # A damaged folder fails in many ways: unreadable JSON, a safetensors error, a shape mismatch (RuntimeError).
    try:
        config = AutoConfig.from_pretrained(weights.folder, local_files_only=True)
    except Exception as error:
        raise WeightsError(f"{weights.folder} has no readable config.json: {error}") from error
    architecture = _MODELS.get(config.model_type)
    if architecture is None:
        raise WeightsError(f"{weights.folder} holds a {config.model_type} model, not DINOv2")
    try:
        with _quiet_progress():
            model, report = architecture.from_pretrained(
                weights.folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise WeightsError(f"{weights.folder} is not a loadable DINOv2 folder: {error}") from error
    # Hugging Face only warns, and starts what is missing at random.
    left_over = {name for name in report["unexpected_keys"] if not name.startswith("classifier.")}
    for problem, names in (("lacks", report["missing_keys"]), ("has unknown", left_over)):
        if names:
            raise WeightsError(
                f"{weights.folder} {problem} weights: {', '.join(sorted(names)[:5])} ({len(names)} in all)"
            )
    if broken := [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise WeightsError(f"{weights.folder} has weights that are not finite: {', '.join(broken[:5])}")
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


def _device(wanted: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise WeightsError(f"SIMILIS_VISION__DEVICE={wanted} cannot be used: {error}") from error
    return device


def _patch_px(config: Any) -> int:
    patch = config.patch_size
    return int(patch if isinstance(patch, int) else patch[0])


def _batches(frames: Sequence[Frame], size: int) -> Iterator[Sequence[Frame]]:
    return (frames[start : start + size] for start in range(0, len(frames), size))
