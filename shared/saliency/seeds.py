"""The noise of a map: its seed, and the draws."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def noise_seed(study: str, sop: str, frame_number: int, head_id: str) -> int:
    """The seed of a map's noise: the same frame and head always give the same. 32 bits, all that torch uses."""
    return _seed(f"{study}|{sop}|{frame_number}|{head_id}")


def standard_normal(seed: int, number: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The draw `number` of a seed, float32: of N(0, 1), whichever draws were asked for before.

    CPUs draw the same from a seed, and so do CUDA devices; a CPU and a CUDA device do not. Torch's global
    generators are left alone.
    """
    generator = torch.Generator(device).manual_seed(_seed(f"{seed}|{number}"))
    return torch.randn(shape, generator=generator, device=device)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
