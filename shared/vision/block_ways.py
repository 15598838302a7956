"""Which kernels a transformer block uses on this machine.

In float32 packed layers win on some processors and lose on others, by rounding alone the same: tried at start, on one
block of the model. In bfloat16 the results of two ways differ by more than that, and the embedder and the query
service must not differ: there the rule is fixed, packed layers, and two batched matrix products instead of the fused
attention where the image is small.
"""

from __future__ import annotations

import logging
import statistics
import time
from typing import Final

import torch

from shared.vision.checkpoint import Checkpoint
from shared.vision.fast_forward import PLAIN, Block, BlockWays
from shared.vision.packed_linear import can_pack

log = logging.getLogger(__name__)

_ROUNDS: Final = 5
_LEAST_GAIN: Final = 1.03
"""A way is left for another only if that is clearly faster, so that the choice is the same at every start."""
_TOKENS_MAX: Final = 640
"""More tokens than these, and the scores of all heads and images at once would take hundreds of megabytes."""


def fastest_ways(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, *, tokens: int, batch_size: int
) -> BlockWays:
    """The kernels for (batch_size, tokens, D) on `device`.

    A GPU has the fused attention and plain layers. On a CPU each way's turns are timed by CPU time, which others that
    use the machine do not add to; in bfloat16 nothing is timed.
    """
    if device.type != "cpu":
        return PLAIN
    if dtype != torch.float32:
        return BlockWays(can_pack(dtype), has_batched_attention=tokens <= _TOKENS_MAX)
    if not can_pack(dtype):
        return PLAIN
    ways = [PLAIN, BlockWays(has_packed_layers=True)]
    first = {name: tensor.double() for name, tensor in checkpoint.tensors.items() if name.startswith(f"{_FIRST}.")}
    blocks = {way: Block(first, _FIRST, checkpoint.config, dtype, way).eval() for way in ways}
    x = torch.rand((batch_size, tokens, checkpoint.config.hidden_size), generator=torch.Generator().manual_seed(0))
    spent = _seconds(blocks, x.to(dtype))
    best = PLAIN
    for way in ways:
        if spent[way] * _LEAST_GAIN < spent[best]:
            best = way
    log.info("%s is fastest here: %.2f times as fast as plain", best, spent[PLAIN] / spent[best])
    return best


_FIRST: Final = "encoder.layer.0"


def _seconds(blocks: dict[BlockWays, Block], x: torch.Tensor) -> dict[BlockWays, float]:
    """The median CPU time of a few turns of each."""
    spent: dict[BlockWays, list[float]] = {way: [] for way in blocks}
    with torch.inference_mode():
        for turn in range(_ROUNDS + 1):  # the first one also sets the kernels up
            for way, block in blocks.items():
                started_s = time.process_time()
                block(x)
                if turn:
                    spent[way].append(time.process_time() - started_s)
    return {way: statistics.median(times) for way, times in spent.items()}
