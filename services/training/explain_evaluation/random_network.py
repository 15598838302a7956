"""A network of the backbone's build with random weights, classifier and all: what a map owes to the build alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch

from shared.vision.backbone import Backbone
from shared.vision.batch_encoder import BatchEncoder
from shared.vision.block_ways import fastest_ways
from shared.vision.checkpoint import read_checkpoint
from shared.vision.fast_forward import PLAIN, FastForward
from shared.vision.heads import LinearHead

WEIGHTS: Final = (
    "all weights as the Hugging Face library draws those of a new image classifier of this build: a linear layer on "
    "class token and mean patch, without bias; another network for each map"
)
_INITIAL_STD: Final = 0.02


def random_network(backbone: Backbone, head: LinearHead, seed: int) -> tuple[Backbone, LinearHead]:
    """A backbone whose Hugging Face model is random, and a random head with the classes of `head`.

    Its ranges hang on how large the head's weights are drawn, so the library's convention is taken, not one of ours.
    On the brain phantom the trained head on a random backbone spans 1e-4, sure of one class whatever it is shown, and
    a random head as steep as the trained one spans more than that: neither would tell anything.
    Its fast forward has the trained backbone's precision. Patch tokens, which a random head does not read, are left
    out.
    """
    build: Any = type(backbone.model)
    config = backbone.model.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config).eval().requires_grad_(False).to(backbone.device)
    std, width, classes = float(getattr(config, "initializer_range", _INITIAL_STD)), backbone.dim, len(head.labels)
    random = np.random.default_rng(seed)
    weight = np.zeros((classes, 4 * width), np.float32)  # of `Features.joined`: CLS; then CLS, mean, maximum
    for part in (slice(0, width), slice(2 * width, 3 * width)):
        weight[:, part] = random.normal(0, std, (classes, width))
    made = LinearHead(
        task=head.task,
        labels=head.labels,
        weight=weight,
        bias=np.zeros(classes, np.float32),
        feature_mean=np.zeros(4 * width, np.float32),
        feature_scale=np.ones(4 * width, np.float32),
        temperature=1.0,
        backbone_id=f"random-{seed}",
    )
    network = replace(
        backbone,
        id=f"random-{seed}",
        load_model=lambda: model,
        encoder=_fast_forward(model, backbone),
        keeps_patches=False,
    )
    return network, made


def _fast_forward(model: Any, backbone: Backbone) -> BatchEncoder:
    with TemporaryDirectory() as folder:  # in the layout of files: the library's names in memory are other ones
        model.save_pretrained(folder)
        checkpoint = read_checkpoint(Path(folder))
    size, batch, device = backbone.input_size_px, backbone.batch_size, backbone.device
    ways, dtype = PLAIN, torch.float32  # float32 would time them anew for each network
    if backbone.precision == "bf16":
        dtype, tokens = torch.bfloat16, (size // backbone.patch_px) ** 2 + backbone.prefix_tokens
        ways = fastest_ways(checkpoint, dtype, device, tokens=tokens, batch_size=batch)
    forward = FastForward(checkpoint, size, dtype=dtype, device=device, ways=ways)
    return BatchEncoder(forward, size_px=size, batch_size=batch, device=device, one_shape=True)


def build_in_words(backbone: Backbone) -> str:
    """Such as `Dinov2Model, 12 blocks of width 384, patch 14, input 224`."""
    config = backbone.model.config
    return (
        f"{type(backbone.model).__name__}, {config.num_hidden_layers} blocks of width {config.hidden_size}, "
        f"patch {config.patch_size}, input {backbone.input_size_px}"
    )
