"""What a second torch thread brings to the model, and what a second batch at once would bring instead.

    python -m bench.embedder.threads [--model S] [--rounds 5] [--json FILE]

Each way has its own process, since OpenMP reads its settings at start, and its turn in every round. Squares to
features only; two cores at least, with nothing else on them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from bench.embedder.models import BATCH, folder_of
from bench.listener import machine
from shared.settings import VisionSettings
from shared.vision.backbone import load_backbone

WAYS: Final[dict[str, tuple[int, int, dict[str, str]]]] = {
    "one batch, 1 thread": (1, 1, {}),
    "one batch, 2 threads": (1, 2, {}),
    "one batch, 2 threads, OMP_WAIT_POLICY=PASSIVE": (1, 2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "two batches at once, 1 thread each": (2, 1, {}),
}
"""Batches at once, torch threads of each, environment."""


def main(
    model: Annotated[str, typer.Option(help="S, B, L or tiny.")] = "S",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    batches: Annotated[int, typer.Option(min=1, help="Batches of each way in each round.")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to keep the figures.")] = None,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Wall and CPU milliseconds of a frame, and a batch's wait, for each way."""
    if way is not None and folder is not None:
        print(json.dumps(_measured(folder, *WAYS[way][:2], batches)))
        return
    with tempfile.TemporaryDirectory() as work:
        place = folder_of(model, Path(work), 224)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for _ in range(rounds):
            for name in WAYS:
                found[name].append(_in_a_process(name, place, batches))
        described = machine.describe(Path(work))
    print("| way | wall ms a frame | CPU ms a frame | wait for a batch of 8, ms |\n|---|---|---|---|")
    for name, runs in found.items():
        cells = (f"{statistics.median(run[key] for run in runs):.1f}" for key in ("wall_ms", "cpu_ms", "batch_ms"))
        print(f"| {name} | {' | '.join(cells)} |")
    if json_file is not None:
        kept = {"model": model, "batch": BATCH, "machine": described.model_dump(), "ways": found}
        json_file.write_text(json.dumps(kept, indent=1) + "\n")


def _in_a_process(way: str, folder: Path, batches: int) -> dict[str, float]:
    _, threads, environment = WAYS[way]
    # New threads take OpenMP's own number, not torch's: both are set.
    environment = {**os.environ, **environment, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "bench.embedder.threads", "--way", way, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--batches", str(batches)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measured(folder: Path, at_once: int, threads: int, batches: int) -> dict[str, float]:
    settings = VisionSettings(backbone=str(folder), device="cpu", batch_size=BATCH, threads=threads)
    backbone = load_backbone(settings, keep_patches=False)
    squares = list(np.random.default_rng(0).random((BATCH, 224, 224), np.float32))
    waits: list[float] = []

    def work(_number: int) -> None:
        for _ in range(batches // at_once):
            started_s = time.perf_counter()
            backbone.encode_squares(squares)
            waits.append(time.perf_counter() - started_s)

    backbone.encode_squares(squares)
    workers: list[Any] = [threading.Thread(target=work, args=(number,)) for number in range(at_once)]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    frames = BATCH * len(waits)
    return {
        "wall_ms": 1e3 * wall_s / frames,
        "cpu_ms": 1e3 * cpu_s / frames,
        "batch_ms": 1e3 * statistics.median(waits),
    }


if __name__ == "__main__":
    typer.run(main)
