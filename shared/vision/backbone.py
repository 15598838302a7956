"""The frozen backbone: frames to features, by the fast forward; the Hugging Face model for who asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from shared.errors import WeightsError
from shared.pixels.frame import Frame
from shared.settings import VisionSettings
from shared.vision.batch_encoder import BatchEncoder
from shared.vision.block_ways import fastest_ways
from shared.vision.checkpoint import Checkpoint, DinoConfig, read_checkpoint
from shared.vision.compiled import compiled_if_faster
from shared.vision.fast_forward import FastForward
from shared.vision.features import MIDDLE_BLOCKS, PATCH_BLOCKS, Features
from shared.vision.precision import Precision, choose_precision
from shared.vision.transform import letterboxed, squares_of_inputs
from shared.vision.weights import backbone_id, locate_weights

if TYPE_CHECKING:
    from transformers import Dinov2Model

__all__ = ["Backbone", "Features", "backbone_id", "load_backbone"]

log = logging.getLogger(__name__)

Square = NDArray[np.float32]
"""A letterboxed frame in [0, 1]: (S, S) grey or (S, S, 3) RGB."""


@dataclass(frozen=True)  # without slots: the Hugging Face model is kept once it is loaded
class Backbone:
    """A DINOv2 model, frozen. For one thread at a time.

    Attributes:
        id: Name, hash of the weights, transform: part of every vector's identity. The precision is not: what it
            changes is within the tolerance of docs/embedder.md.
        config: The architecture.
        encoder: The fast forward, in batches.
        load_model: Loads the Hugging Face model.
        device: Where they run.
        input_size_px: Side of the square input, a multiple of `patch_px`.
        batch_size: Frames in one forward pass.
        keeps_patches: Whether features come with their patch tokens, which heads with a patch lens read.
        precision: Of the fast forward; the Hugging Face model's is float32.
    """

    id: str
    config: DinoConfig
    encoder: BatchEncoder
    load_model: Callable[[], Dinov2Model]
    device: torch.device
    input_size_px: int
    batch_size: int
    keeps_patches: bool = False
    precision: Literal["float32", "bf16"] = "float32"

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return self.config.hidden_size

    @property
    def patch_px(self) -> int:
        """Side of a patch, in input pixels."""
        return self.config.patch_px

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return self.config.prefix_tokens

    @cached_property
    def model(self) -> Dinov2Model:
        """The Hugging Face model, float32, loaded when first asked for, which takes seconds.

        Raises:
            WeightsError: it cannot be loaded any more.
        """
        return self.load_model()

    def encode(self, frames: Sequence[Frame]) -> Features:
        """Features of frames. Only one batch of squares is in memory at a time."""
        size = self.input_size_px
        return self._joined(
            self._rows([letterboxed(frame, size) for frame in batch]) for batch in _batches(frames, self.batch_size)
        )

    def encode_squares(self, squares: Sequence[Square]) -> Features:
        """Features of letterboxed frames, grey and colour in any order. No vector depends on the others."""
        return self._joined([self._rows(squares)] if squares else [])

    def encode_inputs(self, pixels: NDArray[np.float32]) -> Features:
        """Features of (N, 3, S, S) normalised model inputs, as `to_model_input` gives; squares are cheaper."""
        return self._joined(
            self._rows(squares_of_inputs(pixels[start : start + self.batch_size]))
            for start in range(0, len(pixels), self.batch_size)
        )

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By the Hugging Face model in float32: cls (N, D) and middle (N, 3D), see `Features`.

        Args:
            pixels: (N, 3, H, W) normalised model inputs on the backbone's device.
        """
        cls, middle, _ = self.forward_with_patches(pixels)
        return cls, middle

    def forward_with_patches(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `forward` gives, and patches (N, P, D), see `Features`."""
        output = self.model(pixel_values=pixels, output_hidden_states=True)
        # hidden_states starts with the embeddings, so that entry n is what block n gave.
        blocks = len(output.hidden_states) - 1
        tokens, kept = (
            self.model.layernorm(output.hidden_states[round(blocks * share)]) for share in (MIDDLE_BLOCKS, PATCH_BLOCKS)
        )
        patches = tokens[:, self.prefix_tokens :]
        middle = torch.cat([tokens[:, 0], patches.mean(dim=1), patches.amax(dim=1)], dim=1)
        return output.last_hidden_state[:, 0], middle, kept[:, self.prefix_tokens :]

    @property
    def _patches(self) -> int:
        return (self.input_size_px // self.patch_px) ** 2 if self.keeps_patches else 0

    def _rows(self, squares: Sequence[Square]) -> NDArray[np.float32]:
        """(N, 4D), or (N, 4D + P D) with patches.

        Grey and colour go apart: a grey frame beside a colour one must not turn into one.
        """
        rows = np.empty((len(squares), (4 + self._patches) * self.dim), np.float32)
        for dimensions in (2, 3):
            places = [place for place, square in enumerate(squares) if square.ndim == dimensions]
            if places:
                stacked = np.stack([squares[place] for place in places])
                rows[places] = self.encoder(stacked[:, None] if dimensions == 2 else stacked.transpose(0, 3, 1, 2))
        return rows

    def _joined(self, parts: Iterator[NDArray[np.float32]] | Sequence[NDArray[np.float32]]) -> Features:
        width, end = self.dim, 4 * self.dim
        rows = np.concatenate([np.empty((0, (4 + self._patches) * width), np.float32), *parts])
        patches = rows[:, end:].reshape(len(rows), self._patches, width) if self.keeps_patches else None
        return Features(rows[:, :width], rows[:, width:end], patches)


def load_backbone(settings: VisionSettings, *, keep_patches: bool = True) -> Backbone:
    """Load the backbone that the settings name, warm it up and log its speed.

    Sets torch's thread count if `threads` is not 0. Without `keep_patches`, heads with a patch lens cannot be used.

    Raises:
        WeightsError: weights are missing, left over, of another shape or not finite, or are not the pinned ones;
            the architecture is not DINOv2; the input size is no multiple of its patches; the device is not there.
    """
    started_s = time.perf_counter()
    weights = locate_weights(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = _device(settings.device)
    checkpoint = read_checkpoint(weights.folder)
    config, size_px = checkpoint.config, settings.input_size_px
    if size_px % config.patch_px:
        raise WeightsError(
            f"SIMILIS_VISION__INPUT_SIZE_PX={size_px} is no multiple of the backbone's {config.patch_px} px patches"
        )
    precision = choose_precision(settings.precision, device)
    encoder = _encoder(checkpoint, precision, device, settings, keep_patches=keep_patches)
    log.info(
        "backbone %s on %s with %s (%s); %.1f frames/s in batches of %d; ready after %.1f s",
        weights.backbone_id,
        device,
        precision.name,
        precision.reason,
        encoder.warm_up(),
        encoder.batch_size,
        time.perf_counter() - started_s,
    )
    return Backbone(
        weights.backbone_id,
        config,
        encoder,
        partial(_hugging_face_model, weights.folder, device),
        device,
        size_px,
        settings.batch_size,
        keep_patches,
        "bf16" if precision.dtype == torch.bfloat16 else "float32",
    )


def _encoder(
    checkpoint: Checkpoint, precision: Precision, device: torch.device, settings: VisionSettings, *, keep_patches: bool
) -> BatchEncoder:
    config, size_px = checkpoint.config, settings.input_size_px
    ways = fastest_ways(
        checkpoint,
        precision.dtype,
        device,
        tokens=(size_px // config.patch_px) ** 2 + config.prefix_tokens,
        batch_size=settings.batch_size,
    )
    build = partial(FastForward, checkpoint, size_px, dtype=precision.dtype, device=device, keep_patches=keep_patches)
    forward: Callable[[torch.Tensor], torch.Tensor] = build(ways=ways)
    is_compiled = False
    if settings.compile:
        shape = (settings.batch_size, 1, settings.input_size_px, settings.input_size_px)
        forward, is_compiled = compiled_if_faster(
            build(ways=replace(ways, has_packed_layers=False)), forward, torch.zeros(shape, device=device)
        )
    return BatchEncoder(
        forward,
        size_px=settings.input_size_px,
        batch_size=settings.batch_size,
        device=device,
        one_shape=is_compiled,
    )


def _hugging_face_model(folder: Path, device: torch.device) -> Dinov2Model:
    from shared.vision.hugging_face import load_model

    return load_model(folder, device)


def _device(wanted: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise WeightsError(f"SIMILIS_VISION__DEVICE={wanted} cannot be used: {error}") from error
    return device


def _batches(frames: Sequence[Frame], size: int) -> Iterator[Sequence[Frame]]:
    return (frames[start : start + size] for start in range(0, len(frames), size))
