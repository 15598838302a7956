"""A DINOv2 folder in Hugging Face layout, read without transformers, whose import alone costs seconds.

Nothing is guessed: every tensor that the configuration calls for must be there, in its shape and finite,
and nothing else may be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from shared.errors import WeightsError
from shared.vision.safetensors_hash import safetensors_files

Tensors = Mapping[str, torch.Tensor]

_TYPES: Final = ("dinov2", "dinov2_with_registers")
_NOT_NEEDED: Final = "embeddings.mask_token"  # of the pre-training
_SHOWN_NAMES: Final = 5


@dataclass(frozen=True, slots=True)
class DinoConfig:
    """What `config.json` says of the architecture, under Hugging Face's names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    mlp_ratio: float
    layer_norm_eps: float
    image_px: int
    patch_px: int
    num_register_tokens: int
    qkv_bias: bool
    use_swiglu_ffn: bool
    has_antialiased_positions: bool
    """How positions are interpolated: Hugging Face antialiases for models with registers only, as DINOv2 does."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return 1 + self.num_register_tokens

    @property
    def mlp_width(self) -> int:
        """Width inside a block's MLP; of one of the two halves with SwiGLU, as DINOv2 rounds it."""
        width = int(self.hidden_size * self.mlp_ratio)
        return (int(width * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else width


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A configuration and exactly the tensors that it calls for, in float32."""

    config: DinoConfig
    tensors: Tensors


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a folder.

    Raises:
        WeightsError: a file is unreadable; the architecture is not DINOv2; weights are missing, left over (a
            classifier may be), of another shape or not finite.
    """
    config = _read_config(folder)
    tensors: dict[str, torch.Tensor] = {}
    for path in safetensors_files(folder):
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{folder} is not a loadable DINOv2 folder: {error}") from error
    return Checkpoint(config, _checked(tensors, config, folder))


def _read_config(folder: Path) -> DinoConfig:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = values["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} has no readable config.json: {error}") from error
    if kind not in _TYPES:
        raise WeightsError(f"{folder} holds a {kind} model, not DINOv2")
    try:
        config = _config(values, registers=kind == "dinov2_with_registers")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder} has a config.json that does not describe a DINOv2: {error!r}") from error
    return config


def _config(values: Mapping[str, Any], *, registers: bool) -> DinoConfig:
    """Defaults are those of Hugging Face's Dinov2Config, which leaves them out of the file."""
    fixed = {"hidden_act": "gelu", "num_channels": 3}
    for name, expected in fixed.items():
        if values.get(name, expected) != expected:
            raise ValueError(f"{name} is not {expected}")
    config = DinoConfig(
        hidden_size=int(values.get("hidden_size", 768)),
        num_hidden_layers=int(values.get("num_hidden_layers", 12)),
        num_attention_heads=int(values.get("num_attention_heads", 12)),
        mlp_ratio=float(values.get("mlp_ratio", 4)),
        layer_norm_eps=float(values.get("layer_norm_eps", 1e-6)),
        image_px=_side(values.get("image_size", 224)),
        patch_px=_side(values.get("patch_size", 14 if not registers else 16)),
        num_register_tokens=int(values.get("num_register_tokens", 4)) if registers else 0,
        qkv_bias=bool(values.get("qkv_bias", True)),
        use_swiglu_ffn=bool(values.get("use_swiglu_ffn", False)),
        has_antialiased_positions=registers,
    )
    if registers and not config.num_register_tokens:
        raise ValueError("no register tokens")
    if min(config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.patch_px) < 1:
        raise ValueError("a size is not positive")
    if config.hidden_size % config.num_attention_heads:
        raise ValueError("hidden_size is no multiple of num_attention_heads")
    return config


def _side(value: Any) -> int:
    if isinstance(value, int):
        return value
    height, width = value
    if height != width:
        raise ValueError("not square")
    return int(height)


def _checked(tensors: Tensors, config: DinoConfig, folder: Path) -> Tensors:
    expected = dict(_shapes(config))
    found = {_bare(name): tensor for name, tensor in tensors.items()}
    missing = expected.keys() - found.keys()
    left_over = {name for name in found.keys() - expected.keys() if not name.startswith("classifier.")} - {_NOT_NEEDED}
    for problem, names in (("lacks", missing), ("has unknown", left_over)):
        if names:
            raise WeightsError(f"{folder} {problem} weights: {_named(names)} ({len(names)} in all)")
    if wrong := {name for name, shape in expected.items() if tuple(found[name].shape) != shape}:
        raise WeightsError(f"{folder} is not a loadable DINOv2 folder: of another shape: {_named(wrong)}")
    if broken := {name for name in expected if not torch.isfinite(found[name]).all()}:
        raise WeightsError(f"{folder} has weights that are not finite: {_named(broken)}")
    return {name: found[name].to(torch.float32) for name in expected}


def _bare(name: str) -> str:
    """Without the prefix that a model with a classifier has."""
    for prefix in _TYPES:
        name = name.removeprefix(f"{prefix}.")
    return name


def _named(names: set[str]) -> str:
    return ", ".join(sorted(names)[:_SHOWN_NAMES])


def _shapes(config: DinoConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner = config.hidden_size, config.mlp_width
    yield "embeddings.cls_token", (1, 1, width)
    if config.num_register_tokens:
        yield "embeddings.register_tokens", (1, config.num_register_tokens, width)
    yield "embeddings.position_embeddings", (1, (config.image_px // config.patch_px) ** 2 + 1, width)
    yield "embeddings.patch_embeddings.projection.weight", (width, 3, config.patch_px, config.patch_px)
    yield "embeddings.patch_embeddings.projection.bias", (width,)
    for block in range(config.num_hidden_layers):
        prefix = f"encoder.layer.{block}"
        for part in ("query", "key", "value"):
            yield f"{prefix}.attention.attention.{part}.weight", (width, width)
            if config.qkv_bias:
                yield f"{prefix}.attention.attention.{part}.bias", (width,)
        linear = {"attention.output.dense": (width, width)}
        if config.use_swiglu_ffn:
            linear |= {"mlp.weights_in": (2 * inner, width), "mlp.weights_out": (width, inner)}
        else:
            linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for part, (rows, columns) in linear.items():
            yield f"{prefix}.{part}.weight", (rows, columns)
            yield f"{prefix}.{part}.bias", (rows,)
        for norm in ("norm1", "norm2"):
            yield f"{prefix}.{norm}.weight", (width,)
            yield f"{prefix}.{norm}.bias", (width,)
        for scale in ("layer_scale1", "layer_scale2"):
            yield f"{prefix}.{scale}.lambda1", (width,)
    yield "layernorm.weight", (width,)
    yield "layernorm.bias", (width,)
