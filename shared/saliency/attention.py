"""The attention maps of a Hugging Face DINOv2, which its fast attention kernels do not give away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from shared.saliency.forwards import ExplainedModel


@dataclass(frozen=True)
class Attended:
    """One forward pass of one image.

    Attributes:
        attentions: For each block, (1, heads, T, T): how much each token (row) takes from each (column).
        tokens: For each block, what it gave, (1, T, D).
    """

    attentions: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]


def attended(model: ExplainedModel, x: Tensor) -> Attended:
    """Run x (3, H, W) by plain attention; differentiable if `x` is."""
    with _plain_attention(model):
        output = model.backbone(pixel_values=x[None], output_attentions=True, output_hidden_states=True)
    # hidden_states starts with the embeddings.
    return Attended(tuple(output.attentions), tuple(output.hidden_states[1:]))


@contextmanager
def _plain_attention(model: ExplainedModel) -> Iterator[None]:
    usual = model.backbone.config._attn_implementation
    model.backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.backbone.set_attn_implementation(usual)
