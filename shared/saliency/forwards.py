"""The explained backbone's forward passes: a clean one that also gives features, and fast ones for masked images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import torch
from torch import Tensor

from shared.vision.backbone import Backbone
from shared.vision.batch_encoder import BatchEncoder
from shared.vision.transform import IMAGENET_MEAN, IMAGENET_STD

Forward = Callable[[Tensor], Tensor]
"""Model inputs (B, 3, H, W), normalised, to feature rows (B, F) float32."""

log = logging.getLogger(__name__)

_TRIES: Final = 3


@dataclass(frozen=True)
class ExplainedModel:
    """A backbone as explanations need it.

    Attributes:
        backbone: A `Dinov2Model` or `Dinov2WithRegistersModel`, float32, in eval mode, frozen.
        clean: Runs `backbone` once on a batch and gives what heads read.
        read: What heads read, (B, F), had they nothing but one block's tokens (B, T, D). For LeGrad.
    """

    backbone: Any
    clean: Forward
    read: Callable[[Tensor], Tensor]

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: CLS and registers."""
        return 1 + int(getattr(self.backbone.config, "num_register_tokens", 0))

    @cached_property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        device: torch.device = next(iter(self.backbone.parameters())).device
        return device

    def grid(self, x: Tensor) -> tuple[int, int]:
        """(h, w): patches of an image (..., H, W)."""
        patch = int(self.backbone.config.patch_size)
        return x.shape[-2] // patch, x.shape[-1] // patch

    def clean_pass(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Step 1 of ViT-CX and what heads read, by one forward pass of x (3, H, W).

        Returns F float64 (D, h, w), the tokens behind the last block's first LayerNorm without prefix tokens, and
        the feature row (1, F).
        """
        seen: list[Tensor] = []
        norm = self.backbone.encoder.layer[-1].norm1
        hook = norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            row = self.clean(x[None])
        finally:
            hook.remove()
        if len(seen) != 1:
            raise ValueError(f"the forward pass ran the backbone {len(seen)} times on one image, not once")
        tokens = seen[0][0, self.prefix_tokens :]  # (h w, D)
        return tokens.T.reshape(-1, *self.grid(x)).double(), row


def explained(backbone: Backbone) -> ExplainedModel:
    """The Hugging Face model of a loaded backbone, which is loaded if nobody asked for it yet."""
    return ExplainedModel(
        backbone.model,
        clean=lambda pixels: hugging_face_rows(backbone, pixels),
        read=lambda tokens: one_block_rows(backbone, tokens),
    )


def hugging_face_rows(backbone: Backbone, pixels: Tensor) -> Tensor:
    """Rows as the encoder's, by the Hugging Face model in float32."""
    cls, middle, patches = backbone.forward_with_patches(pixels)
    return torch.cat([cls, middle, *([patches.flatten(1)] if backbone.keeps_patches else [])], dim=1)


def one_block_rows(backbone: Backbone, tokens: Tensor) -> Tensor:
    """Rows made of one block's tokens (B, T, D) alone, in the place of those of the three blocks that are read."""
    normed: Tensor = backbone.model.layernorm(tokens)
    cls, patches = normed[:, 0], normed[:, backbone.prefix_tokens :]
    kept = [patches.flatten(1)] if backbone.keeps_patches else []
    return torch.cat([cls, cls, patches.mean(dim=1), patches.amax(dim=1), *kept], dim=1)


def encoder_forward(backbone: Backbone) -> Forward:
    """The backbone's fast forward, in its precision. A row does not depend on the batch that it comes in."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def forward(pixels: Tensor) -> Tensor:
        unit = torch.addcmul(mean, pixels.cpu(), std)  # the encoder takes [0, 1]
        return torch.from_numpy(backbone.encoder(unit.numpy())).to(pixels.device)

    return forward


def hugging_face_forward(backbone: Backbone) -> Forward:
    """The Hugging Face model in float32, in batches of few shapes: a row does not depend on the batch it comes in."""
    batches = BatchEncoder(
        partial(hugging_face_rows, backbone),
        size_px=backbone.input_size_px,
        batch_size=backbone.batch_size,
        device=backbone.device,
    )
    return lambda pixels: torch.from_numpy(batches(pixels.cpu().numpy())).to(pixels.device)


def fastest_forward(backbone: Backbone) -> tuple[Forward, str]:
    """The fastest forward for masked images, and its precision, `float32` or `bf16`.

    The backbone's own where that is bfloat16; in float32 what runs faster here: it depends on the processor whether
    oneDNN's packed layers beat those that the Hugging Face model runs on.
    """
    own, precision = encoder_forward(backbone), backbone.precision
    if precision == "bf16":
        return own, precision
    other = hugging_face_forward(backbone)
    own_s, other_s = (_least_s(forward, backbone) for forward in (own, other))
    chosen = "the fast forward" if own_s <= other_s else "Hugging Face's"
    log.info("masked images in float32 by %s: %.0f and %.0f ms an image", chosen, 1e3 * own_s, 1e3 * other_s)
    return (own if own_s <= other_s else other), precision


def _least_s(forward: Forward, backbone: Backbone) -> float:
    """Seconds an image in a small batch: the best of a few. CPU time on a CPU, which others may be using."""
    clock = time.process_time if backbone.device.type == "cpu" else time.perf_counter
    size = backbone.input_size_px
    pixels = torch.zeros((min(2, backbone.batch_size), 3, size, size), device=backbone.device)
    spent = []
    for _ in range(_TRIES):
        started_s = clock()
        forward(pixels)  # its rows come to the CPU, so a GPU has done its work
        spent.append((clock() - started_s) / len(pixels))
    return min(spent)
