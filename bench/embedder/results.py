"""What is measured and kept, as JSON: one measurement for each machine and plan. No path or host name is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from bench.listener.results import Machine

FORMAT: Final = 2
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
    precisions: tuple[Literal["float32", "bf16"], ...] | None = None
    """None: float32, and bf16 where it multiplies matrices faster."""
    is_compiled: bool = True
    """Also measure the compiled forward: half a minute and more for each model and precision."""
    has_start_up: bool = True
    """Also start a process for each way of loading."""
    soak_frames: int = 0
    soak_model: str = "tiny"
    """The tiny one has random weights: the whole path runs, and 20,000 frames take minutes instead of hours."""


class Run(_Kept):
    """One pipeline in one block."""

    block: int
    model: str
    """S or B; `load` for the load path alone."""
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
    """Resident memory over many frames, in equal steps, from DICOM bytes to embedding."""

    frames: PositiveInt
    model: str
    encodings: tuple[str, ...]
    """Of the objects, which take turns."""
    rss_bytes: tuple[PositiveInt, ...]


class Results(_Kept):
    """Everything of one benchmark."""

    is_complete: bool = True
    """False: it is under way, or was interrupted."""
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


class Measurements(_Kept):
    """The file."""

    format: int = FORMAT
    measurements: tuple[Results, ...] = ()


def read(path: Path) -> Measurements:
    """What was kept; nothing where there is no file."""
    return Measurements.model_validate_json(path.read_text()) if path.exists() else Measurements()


def keep(path: Path, results: Results) -> None:
    """Add a measurement, in the place of an earlier one of the same plan on the same machine."""

    def key(one: Results) -> tuple[str, int, int, Plan]:
        return one.machine.cpu, one.machine.cores, one.threads, one.plan

    others = [one for one in read(path).measurements if key(one) != key(results)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(Measurements(measurements=(*others, results)).model_dump_json(indent=1) + "\n")
    os.replace(unfinished, path)  # at once: an interrupt leaves the old file or the new one
