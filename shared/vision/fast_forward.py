"""DINOv2's forward pass in plain torch, built from the Hugging Face weights.

The same function as `Dinov2Model`, with what is constant worked out once, in float64:

- the position embeddings at the input's size (interpolated as Hugging Face does), with the class token,
  the registers and the patch embedding's bias added;
- ImageNet's mean and standard deviation, folded into the patch embedding; for grey images its three
  channels become one;
- query, key and value as one matrix, with the attention's scale in the queries;
- LayerScale, folded into the matrix before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from shared.vision.checkpoint import Checkpoint, DinoConfig, Tensors
from shared.vision.features import MIDDLE_BLOCKS, PATCH_BLOCKS
from shared.vision.packed_linear import PackedLinear, PlainLinear
from shared.vision.transform import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, slots=True)
class BlockWays:
    """Which kernels a block uses. The results differ by rounding only.

    Attributes:
        has_packed_layers: Weights laid out for oneDNN beforehand.
        has_batched_attention: `batched_attention` instead of torch's fused kernel.
    """

    has_packed_layers: bool = False
    has_batched_attention: bool = False


PLAIN: Final = BlockWays()


class FastForward(nn.Module):
    """(N, 1 or 3, S, S) float32 pixels in [0, 1] to features; S is fixed here.

    The patch embedding, the pooling and the results are float32: a 12-bit pixel does not fit into bfloat16.

    Attributes:
        config: The architecture.
        dtype: Of the blocks' weights and activations.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        input_size_px: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        ways: BlockWays = PLAIN,
        keep_patches: bool = False,
    ) -> None:
        """Float64 is kept until the constants are worked out.

        Args:
            checkpoint: The weights.
            input_size_px: S, a multiple of the patch.
            dtype: Of the blocks' weights and activations.
            device: Where they go; None: the CPU.
            ways: Which kernels the blocks use; see `block_ways.fastest_ways`.
            keep_patches: Also give the patch tokens.
        """
        super().__init__()
        config, tensors = checkpoint.config, {name: tensor.double() for name, tensor in checkpoint.tensors.items()}
        self.config, self.dtype = config, dtype
        self._side = input_size_px // config.patch_px
        self._middle = round(config.num_hidden_layers * MIDDLE_BLOCKS)
        self._kept = round(config.num_hidden_layers * PATCH_BLOCKS) if keep_patches else 0
        weight, bias = _patch_embedding(tensors)
        prefix, positions = _token_constants(tensors, self._side, antialias=config.has_antialiased_positions)
        self._prefix, self._positions = _constant(prefix), _constant(positions + bias)
        self._colour, self._grey = _constant(weight.flatten(1)), _constant(weight.sum(dim=1).flatten(1))
        self._blocks = nn.ModuleList(
            Block(tensors, f"encoder.layer.{number}", config, dtype, ways) for number in range(config.num_hidden_layers)
        )
        self._norm = _norm(tensors, "layernorm", config)
        self.eval().requires_grad_(False)
        if device is not None:
            self.to(device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 4D) float32: the last class token, then `Features.middle`; then P D of `Features.patches`, if kept."""
        x = self._embed(pixels).to(self.dtype)
        middle, kept = x, []
        for number, block in enumerate(self._blocks, start=1):
            x = block(x)
            if number == self._kept:
                kept = [self._norm(x.float())[:, self.config.prefix_tokens :].flatten(1)]
            if number == self._middle:
                middle = self._norm(x.float())
        patches = middle[:, self.config.prefix_tokens :]
        cls = self._norm(x[:, 0].float())
        return torch.cat([cls, middle[:, 0], patches.mean(dim=1), patches.amax(dim=1), *kept], dim=1)

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        count, channels = pixels.shape[:2]
        side, patch = self._side, self.config.patch_px
        cells = pixels.reshape(count, channels, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        weight = self._grey if channels == 1 else self._colour
        patches = functional.linear(cells.reshape(count, side * side, -1), weight) + self._positions
        return torch.cat([self._prefix.expand(count, -1, -1), patches], dim=1)


class Block(nn.Module):
    """One transformer block, `name` among the tensors, on (N, T, D)."""

    def __init__(self, tensors: Tensors, name: str, config: DinoConfig, dtype: torch.dtype, ways: BlockWays) -> None:
        super().__init__()
        layer = PackedLinear if ways.has_packed_layers else PlainLinear
        self._attend = batched_attention if ways.has_batched_attention else _fused_attention
        first, second = ("weights_in", "weights_out") if config.use_swiglu_ffn else ("fc1", "fc2")
        inner = (tensors[f"{name}.mlp.{first}.weight"], tensors[f"{name}.mlp.{first}.bias"])
        self._heads, self._is_gated = config.num_attention_heads, config.use_swiglu_ffn
        self._norm1, self._norm2 = (_norm(tensors, f"{name}.{part}", config) for part in ("norm1", "norm2"))
        self._qkv = layer(_linear(*_qkv(tensors, name, config), dtype))
        self._projection = layer(
            _linear(*_scaled(tensors, f"{name}.attention.output.dense", f"{name}.layer_scale1"), dtype)
        )
        self._inner = layer(_linear(*inner, dtype))
        self._outer = layer(_linear(*_scaled(tensors, f"{name}.mlp.{second}", f"{name}.layer_scale2"), dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, D) of (N, T, D)."""
        count, tokens, width = x.shape
        joined = self._qkv(self._norm1(x)).view(count, tokens, 3, self._heads, width // self._heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        seen = self._attend(query, key, value)
        x = self._projection.added(seen.transpose(1, 2).reshape(count, tokens, width), x)
        out: torch.Tensor = self._outer.added(self._activated(self._norm2(x)), x)
        return out

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        if self._is_gated:
            gate, value = self._inner(x).chunk(2, dim=-1)
            gated: torch.Tensor = functional.silu(gate) * value
            return gated
        activated: torch.Tensor = self._inner.gelu(x)
        return activated


def batched_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of (N, H, T, d), scaled already, by two batched matrix products: holds N H T T scores at once."""
    count, heads, tokens, width = query.shape
    query, key, value = (part.reshape(count * heads, tokens, width) for part in (query, key, value))
    weights = torch.softmax(torch.bmm(query, key.transpose(1, 2)), dim=-1)
    return torch.bmm(weights, value).view(count, heads, tokens, width)


def _fused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query, key, value, scale=1.0)


class _Norm(nn.Module):
    """LayerNorm with float32 weights and statistics, in the type of what it is given."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self._eps = weight, bias, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_cuda and x.dtype != torch.float32:  # the CUDA kernel takes one type only
            return functional.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self._eps).to(x.dtype)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self._eps)


def _constant(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.float().contiguous(), requires_grad=False)


def _norm(tensors: Tensors, name: str, config: DinoConfig) -> _Norm:
    return _Norm(_constant(tensors[f"{name}.weight"]), _constant(tensors[f"{name}.bias"]), config.layer_norm_eps)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(dtype).contiguous(), requires_grad=False)
    return linear


def _patch_embedding(tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """(D, 3, P, P) weight and (D,) bias that take pixels in [0, 1]."""
    weight = tensors["embeddings.patch_embeddings.projection.weight"]
    mean, std = (torch.tensor(values, dtype=weight.dtype)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    folded = weight / std
    return folded, tensors["embeddings.patch_embeddings.projection.bias"] - (folded * mean).sum(dim=(1, 2, 3))


def _token_constants(tensors: Tensors, side: int, *, antialias: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, P, D) prefix tokens, the class token with its position, and (1, side * side, D) positions of the patches."""
    positions = tensors["embeddings.position_embeddings"]
    prefix = tensors["embeddings.cls_token"] + positions[:, :1]
    if (registers := tensors.get("embeddings.register_tokens")) is not None:
        prefix = torch.cat([prefix, registers], dim=1)  # registers have no position
    patches = positions[:, 1:]
    trained = math.isqrt(patches.shape[1])
    if side != trained:
        grid = patches.reshape(1, trained, trained, -1).permute(0, 3, 1, 2)
        # Hugging Face interpolates in float32.
        grid = functional.interpolate(
            grid.float(), size=(side, side), mode="bicubic", align_corners=False, antialias=antialias
        )
        patches = grid.permute(0, 2, 3, 1).reshape(1, side * side, -1).to(patches.dtype)
    return prefix, patches


def _qkv(tensors: Tensors, name: str, config: DinoConfig) -> tuple[torch.Tensor, torch.Tensor | None]:
    factors = {"query": config.head_dim**-0.5, "key": 1.0, "value": 1.0}
    prefix = f"{name}.attention.attention"
    weight = torch.cat([tensors[f"{prefix}.{part}.weight"] * factor for part, factor in factors.items()])
    if not config.qkv_bias:
        return weight, None
    return weight, torch.cat([tensors[f"{prefix}.{part}.bias"] * factor for part, factor in factors.items()])


def _scaled(tensors: Tensors, linear: str, scale: str) -> tuple[torch.Tensor, torch.Tensor]:
    factors = tensors[f"{scale}.lambda1"]
    return tensors[f"{linear}.weight"] * factors[:, None], tensors[f"{linear}.bias"] * factors
