"""What is measured and kept, as JSON. No path or host name of a machine is in it."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from bench.listener.results import Machine

FORMAT: Final = 1
STOCK: Final = "stock batch 1"
"""What all ratios are against."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Plan(_Kept):
    """How much is done."""

    models: tuple[str, ...] = ("S", "B")
    images: PositiveInt = 16
    """In each run."""
    repeats: PositiveInt = 5
    """Blocks, in each of which every pipeline has its turn."""
    input_px: PositiveInt = 224
    is_compiled: bool = True
    """Also measure the compiled forward: half a minute and more for each model."""
    has_start_up: bool = True
    """Also start a process for each way of loading."""
    soak_frames: int = 0


class Run(_Kept):
    """One pipeline in one block."""

    block: int
    model: str
    """S or B; empty for the load path alone."""
    pipeline: str
    syntax: str
    cpu_ms_per_image: PositiveFloat
    """Of the whole process, all threads."""
    wall_ms_per_image: PositiveFloat


class MatmulPeak(_Kept):
    """The fastest matrix product found, in floating point operations a CPU second (of all threads together)."""

    precision: str
    gflop_per_cpu_s: PositiveFloat


class Equality(_Kept):
    """Vectors of a pipeline beside Hugging Face's float32 on the same pixels."""

    model: str
    pipeline: str
    relative_error: NonNegativeFloat
    largest_difference: NonNegativeFloat
    top10_overlap: NonNegativeFloat


class Soak(_Kept):
    """Resident memory over many frames, in equal steps."""

    frames: PositiveInt
    rss_bytes: tuple[PositiveInt, ...]


class Results(_Kept):
    """Everything of one benchmark."""

    format: int = FORMAT
    made_at: str
    duration_s: PositiveFloat
    commit: str | None
    commit_is_modified: bool
    machine: Machine
    torch: str
    transformers: str
    threads: PositiveInt
    plan: Plan
    gflop_per_image: dict[str, float]
    start_up_cpu_s: dict[str, float]
    """CPU seconds of a fresh process up to its first vector, by way of loading."""
    peaks: tuple[MatmulPeak, ...] = ()
    runs: tuple[Run, ...] = ()
    equalities: tuple[Equality, ...] = ()
    not_measured: dict[str, str] = {}
    """Pipelines left out, with the reason."""
    soak: Soak | None = None
