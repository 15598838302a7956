"""What is measured and kept, as JSON. No path or host name of a machine is in it."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from bench.listener.results import Machine

PUBLISHED: Final = "published"
"""What all ratios are against."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Plan(_Kept):
    """How much is done."""

    models: tuple[str, ...] = ("S", "B")
    images: dict[str, PositiveInt] = {"S": 2, "B": 1, "L": 1, "tiny": 1}
    input_px: PositiveInt = 224
    queued: PositiveInt = 8
    """Images in one queue, beside as many one by one."""
    queued_masks: PositiveInt = 10
    """Most masks of each of them: the comparison needs no more."""


class Run(_Kept):
    """One pipeline on one image."""

    model: str
    image: int
    pipeline: str
    masks: PositiveInt
    forwards: PositiveInt
    """Images through the model, the clean one included."""
    cpu_s: PositiveFloat
    """Of the whole process, all threads."""
    masked_cpu_s: NonNegativeFloat
    """Of these, in forward passes of masked images."""
    wall_s: PositiveFloat
    peak_rss_bytes: PositiveInt
    """Of the process while this pipeline ran, all loaded models included."""
    pearson: float
    """With the map of the published procedure, under other noise."""


class Queued(_Kept):
    """Several images in one queue, and one by one."""

    model: str
    images: PositiveInt
    masks: PositiveInt
    """Of all images together."""
    together_cpu_s: PositiveFloat
    alone_cpu_s: PositiveFloat


class Kernel(_Kept):
    """The forward pass alone, in a batch of 8."""

    model: str
    forward: str
    cpu_ms_per_image: PositiveFloat
    gflop_per_cpu_s: PositiveFloat


class Results(_Kept):
    """Everything of one benchmark."""

    format: int = 1
    made_at: str
    duration_s: PositiveFloat
    commit: str | None
    commit_is_modified: bool
    machine: Machine
    load_average: float
    """Of the last minute, before the benchmark: above 1.5, others were using the machine too."""
    torch: str
    transformers: str
    threads: PositiveInt
    precision: str
    matmul_gain_of_bf16: PositiveFloat
    plan: Plan
    runs: tuple[Run, ...]
    queued: tuple[Queued, ...]
    kernels: tuple[Kernel, ...]
