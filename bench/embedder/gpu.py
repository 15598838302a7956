"""`python -m bench.embedder.gpu`: the model on a GPU, from stored pixels in memory to embeddings, as JSON.

For a machine with CUDA; not part of `make bench-embedder`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer

from bench.embedder.models import folder_of, gflop_per_image
from bench.embedder.stock import Stock
from shared.vision.checkpoint import read_checkpoint
from shared.vision.compiled import compiled_if_faster
from shared.vision.device_input import DeviceInput
from shared.vision.fast_forward import FastForward
from shared.vision.precision import matmul_s, synchronise

_WINDOW: Final = (0.0, 4095.0)
_LOAD: Final = 0.7


def main(
    models: Annotated[str, typer.Option(help="Such as S,B,L.")] = "S,B,L",
    sizes: Annotated[str, typer.Option(help="Sides of the input, such as 224,518.")] = "224,518",
    batch: Annotated[int, typer.Option(min=1)] = 128,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each run.")] = 5.0,
    device: Annotated[str, typer.Option(help="cuda; cpu only shows that it works.")] = "cuda",
    compiled: Annotated[bool, typer.Option("--compiled/--eager")] = True,
) -> None:
    """Images a second, share of the measured matrix product, p99 at 70 % load."""
    chosen = torch.device(device)
    side = 8192 if chosen.type == "cuda" else 1024
    peak = 2 * side**3 / matmul_s(chosen, torch.bfloat16, side)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for name in models.split(","):
            for size in (int(text) for text in sizes.split(",")):
                folder = folder_of(name, Path(work), size)
                row = _measured(folder, size, chosen, batch, seconds, is_compiled=compiled)
                row["share_of_matmul"] = row["model_images_per_s"] * gflop_per_image(name, size) * 1e9 / peak
                rows.append({"model": name, "input_px": size, "batch": batch, **row})
    print(json.dumps({"matmul_tflops": peak / 1e12, "torch": torch.__version__, "rows": rows}, indent=1))


def _measured(
    folder: Path, size: int, device: torch.device, batch: int, seconds: float, *, is_compiled: bool
) -> dict[str, float]:
    stored = np.random.default_rng(0).integers(0, 4096, (batch, 512, 512)).astype(np.uint16)
    module = FastForward(read_checkpoint(folder), size, dtype=torch.bfloat16, device=device)
    example = torch.rand((batch, 1, size, size), device=device)
    forward: Callable[[torch.Tensor], torch.Tensor] = module
    kept = False
    if is_compiled:
        forward, kept = compiled_if_faster(module, module, example)
    prepare = DeviceInput(device, size)
    stock: Any = Stock(folder).model.to(device)
    one = torch.rand((1, 3, size, size), device=device)

    def pipeline() -> torch.Tensor:
        return forward(prepare(stored, [_WINDOW] * batch, 1.0)).cpu()

    with torch.inference_mode():
        alone_s, whole_s = _each_s(lambda: forward(example), device, seconds), _each_s(pipeline, device, seconds)
        stock_s = _each_s(lambda: stock(pixel_values=one), device, seconds)
        waits = sorted(_waits_s(pipeline, whole_s / _LOAD, seconds))
    return {
        "is_compiled": float(kept),
        "model_images_per_s": batch / alone_s,
        "pipeline_images_per_s": batch / whole_s,
        "stock_batch_1_images_per_s": 1 / stock_s,
        "p99_ms_at_70_percent_load": 1e3 * waits[int(0.99 * (len(waits) - 1))],
    }


def _each_s(action: Callable[[], object], device: torch.device, seconds: float) -> float:
    action()
    synchronise(device)
    started_s, count = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        action()
        synchronise(device)
        count += 1
    return (time.perf_counter() - started_s) / count


def _waits_s(action: Callable[[], object], every_s: float, seconds: float) -> Iterator[float]:
    """From when a batch is due, at random moments as independent senders make them, until it is done."""
    rng, due_s = np.random.default_rng(0), time.perf_counter()
    end_s = due_s + seconds
    while due_s < end_s:
        time.sleep(max(0.0, due_s - time.perf_counter()))
        action()
        yield time.perf_counter() - due_s
        due_s += float(rng.exponential(every_s))


if __name__ == "__main__":
    typer.run(main)
