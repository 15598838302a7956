"""torch.compile, kept only where it is seen to be faster than the plain forward."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from shared.vision.precision import synchronise

log = logging.getLogger(__name__)

Forward = Callable[[torch.Tensor], torch.Tensor]


def compiled_if_faster(module: torch.nn.Module, plain: Forward, example: torch.Tensor) -> tuple[Forward, bool]:
    """A forward that is compiled for the shape of `example` and falls back on `plain` for any other.

    On the CPU weights are frozen into the code; on a GPU the launches are kept as a CUDA graph. Takes half a
    minute for a ViT-S, and needs a C++ compiler on the CPU.

    Returns:
        The forward and True; `plain` and False where compiling fails or is no faster.
    """
    started_s = time.perf_counter()
    try:
        compiled = _compile(module, example)
        wanted_s, found_s = _seconds(plain, example), _seconds(compiled, example)
    except Exception:  # the compiler's own, the toolchain's, the driver's
        log.warning("the forward cannot be compiled; going on without", exc_info=True)
        return plain, False
    log.info("compiled in %.0f s: %.2f times as fast as without", time.perf_counter() - started_s, wanted_s / found_s)
    if found_s >= wanted_s:
        return plain, False

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return compiled(pixels) if pixels.shape == example.shape else plain(pixels)

    return forward, True


def _compile(module: torch.nn.Module, example: torch.Tensor) -> Forward:
    import torch._inductor.config as inductor

    on_gpu = example.is_cuda
    compiled: Forward = torch.compile(module, dynamic=False, mode="max-autotune" if on_gpu else None)
    with torch.no_grad(), inductor.patch(freezing=not on_gpu):
        compiled(example)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            # A CUDA graph writes every result to the same place.
            return compiled(pixels).clone() if on_gpu else compiled(pixels)

    return forward


def _seconds(forward: Forward, example: torch.Tensor) -> float:
    """The best of a few runs."""
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            synchronise(example.device)
            started_s = time.perf_counter()
            forward(example)
            synchronise(example.device)
            seconds.append(time.perf_counter() - started_s)
    return min(seconds)
