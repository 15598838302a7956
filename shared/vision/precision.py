"""Which precision this machine's hardware favours: probed at start, never assumed from a model name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import torch

from shared.errors import WeightsError

_LEAST_GAIN: Final = 1.5
"""bfloat16 must multiply matrices so many times faster than float32; it is slower without units for it."""
_SIDE: Final = 768
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Precision:
    """The chosen type and why, for the log."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """float32 or bfloat16."""
        return str(self.dtype).removeprefix("torch.")


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """`float32` or `bf16` as wanted; for `auto`, what a measured matrix product says.

    Raises:
        WeightsError: another value.
    """
    if wanted == "float32":
        return Precision(torch.float32, "set")
    if wanted == "bf16":
        return Precision(torch.bfloat16, "set")
    if wanted != "auto":
        raise WeightsError(f"SIMILIS_VISION__PRECISION={wanted} is none of auto, float32, bf16")
    gain = matmul_gain(device)
    dtype = torch.bfloat16 if gain >= _LEAST_GAIN else torch.float32
    return Precision(dtype, f"bfloat16 multiplies matrices {gain:.1f} times as fast as float32 here")


def matmul_gain(device: torch.device) -> float:
    """Time of a float32 matrix product divided by that of a bfloat16 one, each the best of a few."""
    return matmul_s(device, torch.float32) / matmul_s(device, torch.bfloat16)


def matmul_s(device: torch.device, dtype: torch.dtype, side: int = _SIDE) -> float:
    """Seconds of a (side, side) matrix product: the best of a few. CPU time on a CPU, which others may be using."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    left, right = (torch.ones((side, side), dtype=dtype, device=device) for _ in range(2))
    seconds = []
    with torch.inference_mode():
        for _ in range(_TRIES + 1):  # the first one also sets the kernel up
            synchronise(device)
            started_s = clock()
            torch.matmul(left, right)
            synchronise(device)
            seconds.append(clock() - started_s)
    return min(seconds)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
