"""All runs in one process, pipelines taking turns within a block, so that what disturbs meets all of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn import functional

from bench.embedder.models import BATCH, SIZES, folder_of, gflop_per_image
from bench.embedder.objects import SYNTAXES, slices
from bench.embedder.results import STOCK, Equality, MatmulPeak, Plan, Results, Run, Soak
from bench.embedder.stock import Stock
from bench.listener import machine
from shared.pixels import PixelLimits, read_frames
from shared.settings import VisionSettings
from shared.vision.backbone import Backbone, load_backbone
from shared.vision.packed_linear import PackedLinear, can_pack
from shared.vision.transform import letterboxed

LOAD: Final = "load"
_LIMITS: Final = PixelLimits()
_SOAK_STEPS: Final = 20
_START: Final = {
    "similis": "from shared.settings import VisionSettings; from shared.vision.backbone import load_backbone; "
    "import numpy as np; load_backbone(VisionSettings()).encode_squares([np.zeros((224, 224), np.float32)])",
    "stock": "import sys, torch; from transformers import AutoModel; "
    "AutoModel.from_pretrained(sys.argv[1])(pixel_values=torch.zeros((1, 3, 224, 224)))",
}

Pipeline = Callable[[Sequence[bytes]], object]
Progress = Callable[[str], None]


def measure(plan: Plan, *, checkout: Path, work: Path, progress: Progress) -> Results:
    """Do all of `plan`; random weights are written below `work`."""
    started_s, made_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    commit, is_modified = machine.commit(checkout)
    objects = {syntax: slices(plan.images, syntax) for syntax in SYNTAXES}
    runs: list[Run] = []
    equalities: list[Equality] = []
    not_measured: dict[str, str] = {}
    peaks = tuple(_peak(dtype) for dtype in (torch.float32, torch.bfloat16))
    soak = None
    for name in plan.models:
        folder = folder_of(name, work, plan.input_px)
        stock = Stock(folder)
        ours = dict(_ours(folder, plan))
        if plan.is_compiled and "bf16 compiled" not in ours:
            not_measured[f"{name} bf16 compiled"] = "could not be compiled, or was no faster"
        equalities += [_equality(name, pipeline, backbone, stock, plan) for pipeline, backbone in ours.items()]
        progress(f"{name}: {', '.join(ours)} are ready")
        pipelines: dict[str, Pipeline] = {
            STOCK: partial(stock.embed, batch=1),
            "stock batch 8": partial(stock.embed, batch=8),
            **{title: partial(_embed, backbone=backbone) for title, backbone in ours.items()},
        }
        runs += _blocks(name, pipelines, {"uncompressed": objects["uncompressed"]}, plan, progress)
        if not any(run.model == LOAD for run in runs):
            loaders: dict[str, Pipeline] = {
                STOCK: partial(_each, stock.load),
                "similis": partial(_each, partial(_load, input_px=plan.input_px)),
            }
            runs += _blocks(LOAD, loaders, objects, plan, progress)
        if plan.soak_frames and soak is None:
            soak = _soak(ours["bf16"], objects["uncompressed"], plan.soak_frames, progress)
    return Results(
        made_at=made_at,
        duration_s=time.monotonic() - started_s,
        commit=commit,
        commit_is_modified=is_modified,
        machine=machine.describe(work),
        torch=torch.__version__,
        transformers=transformers.__version__,
        threads=torch.get_num_threads(),
        plan=plan,
        gflop_per_image={name: gflop_per_image(name, plan.input_px) for name in plan.models},
        start_up_cpu_s=_start_up(checkout) if plan.has_start_up else {},
        peaks=peaks,
        runs=tuple(runs),
        equalities=tuple(equalities),
        not_measured=not_measured,
        soak=soak,
    )


def _ours(folder: Path, plan: Plan) -> Iterator[tuple[str, Backbone]]:
    settings = VisionSettings(backbone=str(folder), device="cpu", input_size_px=plan.input_px, batch_size=BATCH)
    yield "float32", _loaded(settings, precision="float32")
    yield "bf16", _loaded(settings, precision="bf16")
    if plan.is_compiled:
        compiled = _loaded(settings, precision="bf16", compile=True)
        if compiled.encoder.shapes(1) == (BATCH,):  # else it fell back
            yield "bf16 compiled", compiled


def _loaded(settings: VisionSettings, **values: object) -> Backbone:
    return load_backbone(settings.model_copy(update=values), keep_patches=False)


def _load(data: bytes, input_px: int) -> NDArray[np.float32]:
    (frame,) = read_frames(data, limits=_LIMITS)
    return letterboxed(frame, input_px)


def _each(load: Callable[[bytes], NDArray[np.float32]], objects: Sequence[bytes]) -> list[NDArray[np.float32]]:
    return [load(data) for data in objects]


def _embed(objects: Sequence[bytes], backbone: Backbone) -> NDArray[np.float32]:
    rows = []
    for start in range(0, len(objects), BATCH):
        squares = [_load(data, backbone.input_size_px) for data in objects[start : start + BATCH]]
        rows.append(backbone.encode_squares(squares).cls)
    return np.concatenate(rows)


def _blocks(
    model: str, pipelines: dict[str, Pipeline], objects: dict[str, list[bytes]], plan: Plan, progress: Progress
) -> Iterator[Run]:
    for syntax, data in objects.items():
        for run in pipelines.values():
            run(data[:1])  # set up
        for block in range(plan.repeats):
            first = block % len(pipelines)
            titles = [*pipelines][first:] + [*pipelines][:first]
            for title in titles:
                cpu_s, wall_s = time.process_time(), time.perf_counter()
                pipelines[title](data)
                cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
                yield Run(
                    block=block,
                    model=model,
                    pipeline=title,
                    syntax=syntax,
                    cpu_ms_per_image=1e3 * cpu_s / len(data),
                    wall_ms_per_image=1e3 * wall_s / len(data),
                )
        progress(f"{model} {syntax}: {plan.repeats} blocks")


def _peak(dtype: torch.dtype) -> MatmulPeak:
    """The best of a square product and of the models' own largest one, with packed weights where they can be."""
    best = 0.0
    with torch.inference_mode():
        for rows, inner, columns in ((2048, 2048, 2048), (2056, 768, 3072), (2056, 384, 1536)):
            x, weight = torch.randn((rows, inner)).to(dtype), torch.randn((columns, inner)).to(dtype)
            products: list[Callable[[], object]] = [partial(functional.linear, x, weight)]
            if can_pack(dtype):
                linear = torch.nn.Linear(inner, columns, bias=False, device="meta")
                linear.weight = torch.nn.Parameter(weight, requires_grad=False)
                products.append(partial(PackedLinear(linear), x))
            for product in products:
                best = max(best, 2e-9 * rows * inner * columns / _least_cpu_s(product))
    return MatmulPeak(precision=str(dtype).removeprefix("torch."), gflop_per_cpu_s=best)


def _least_cpu_s(action: Callable[[], object], tries: int = 8, times: int = 4) -> float:
    spent = []
    for _ in range(tries):
        started_s = time.process_time()
        for _ in range(times):
            action()
        spent.append((time.process_time() - started_s) / times)
    return min(spent)


def _equality(model: str, pipeline: str, backbone: Backbone, stock: Stock, plan: Plan) -> Equality:
    """On the same pixels: what the forward alone changes."""
    squares = [_load(data, plan.input_px) for data in slices(24, "uncompressed", side_px=256)]
    pixels = np.stack([np.repeat(square[None], 3, axis=0) for square in squares])
    mean, std = (
        np.array(v, np.float32)[:, None, None] for v in (stock.processor.image_mean, stock.processor.image_std)
    )
    inputs = torch.from_numpy((pixels - mean) / std)
    with torch.inference_mode():
        expected = np.concatenate(
            [
                stock.model(pixel_values=inputs[start : start + BATCH]).last_hidden_state[:, 0].numpy()
                for start in range(0, len(inputs), BATCH)
            ]
        )
    found = backbone.encode_squares(squares).cls
    return Equality(
        model=model,
        pipeline=pipeline,
        relative_error=float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        largest_difference=float(np.abs(found - expected).max()),
        top10_overlap=_overlap(found, expected),
    )


def _overlap(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    nearest = []
    for vectors in (found, expected):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        likeness = unit @ unit.T
        np.fill_diagonal(likeness, -2)
        nearest.append([set(row) for row in np.argsort(-likeness, axis=1)[:, :10]])
    return statistics.fmean(len(ours & theirs) / 10 for ours, theirs in zip(*nearest, strict=True))


def _start_up(checkout: Path) -> dict[str, float]:
    folder = str(folder_of("S", checkout, 224))
    found = {}
    for name, code in _START.items():
        before = os.times()
        subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=checkout, stderr=subprocess.DEVNULL)
        after = os.times()
        found[name] = after.children_user + after.children_system - before.children_user - before.children_system
    return found


def _soak(backbone: Backbone, objects: list[bytes], frames: int, progress: Progress) -> Soak:
    sizes = []
    done = 0
    for step in range(1, _SOAK_STEPS + 1):
        while done < step * frames // _SOAK_STEPS:
            _embed(objects, backbone)
            done += len(objects)
        sizes.append(_rss_bytes())
        progress(f"soak: {done} frames, {sizes[-1] / 1e6:.0f} MB resident")
    return Soak(frames=done, rss_bytes=tuple(sizes))


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


KNOWN_MODELS: Final = tuple(SIZES)
