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
Keep = Callable[[Results], None]


class _Notebook:
    """What was measured so far; kept after every block, so that an interrupt costs one block."""

    def __init__(self, results: Results, keep: Keep) -> None:
        self._started_s, self._keep = time.monotonic(), keep
        self.results = results

    def add(self, *, is_complete: bool = False, **more: object) -> None:
        """Lengthen the tuples, set the rest."""
        for name, value in more.items():
            if isinstance(value, tuple):
                more[name] = (*getattr(self.results, name), *value)
        spent_s = time.monotonic() - self._started_s
        self.results = self.results.model_copy(update={**more, "is_complete": is_complete, "duration_s": spent_s})
        self._keep(self.results)


def measure(
    plan: Plan, *, checkout: Path, work: Path, progress: Progress, keep: Keep = lambda _results: None
) -> Results:
    """Do all of `plan`; random weights are written below `work`. `keep` gets what there is after each block."""
    commit, is_modified = machine.commit(checkout)
    notebook = _Notebook(
        Results(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            duration_s=1e-9,
            commit=commit,
            commit_is_modified=is_modified,
            machine=machine.describe(work),
            torch=torch.__version__,
            transformers=transformers.__version__,
            threads=torch.get_num_threads(),
            plan=plan,
            gflop_per_image={name: gflop_per_image(name, plan.input_px) for name in plan.models},
            start_up_cpu_s={},
        ),
        keep,
    )
    objects = {syntax: slices(plan.images, syntax) for syntax in SYNTAXES}
    if plan.soak_frames:  # first, while the process is small
        _soak(plan, work, objects, notebook, progress)
    if plan.models:
        notebook.add(peaks=tuple(_peak(dtype) for dtype in (torch.float32, torch.bfloat16)))
    for name in plan.models:
        _measure_model(name, plan, work, objects, notebook, progress)
    has_start_up = plan.has_start_up and bool(plan.models)
    notebook.add(start_up_cpu_s=_start_up(checkout) if has_start_up else {}, is_complete=True)
    return notebook.results


def _measure_model(
    name: str, plan: Plan, work: Path, objects: dict[str, list[bytes]], notebook: _Notebook, progress: Progress
) -> None:
    folder = folder_of(name, work, plan.input_px)
    stock = Stock(folder)
    if not any(run.model == LOAD for run in notebook.results.runs):
        loaders: dict[str, Pipeline] = {
            STOCK: partial(_each, stock.load),
            "similis": partial(_each, partial(_load, input_px=plan.input_px)),
        }
        for runs in _blocks(LOAD, loaders, objects, plan, progress):
            notebook.add(runs=runs)
    ours = dict(_ours(name, folder, plan, notebook))
    equalities = tuple(_equality(name, pipeline, backbone, stock, plan) for pipeline, backbone in ours.items())
    notebook.add(equalities=equalities)
    progress(f"{name}: {', '.join(ours)} are ready")
    pipelines: dict[str, Pipeline] = {
        STOCK: partial(stock.embed, batch=1),
        "stock batch 8": partial(stock.embed, batch=8),
        **{title: partial(_embed, backbone=backbone) for title, backbone in ours.items()},
    }
    for runs in _blocks(name, pipelines, {"uncompressed": objects["uncompressed"]}, plan, progress):
        notebook.add(runs=runs)


def _ours(name: str, folder: Path, plan: Plan, notebook: _Notebook) -> Iterator[tuple[str, Backbone]]:
    settings = VisionSettings(backbone=str(folder), device="cpu", input_size_px=plan.input_px, batch_size=BATCH)
    precisions = plan.precisions or ("float32", "bf16")
    gain = notebook.results.peaks[1].gflop_per_cpu_s / notebook.results.peaks[0].gflop_per_cpu_s
    for precision in precisions:
        if plan.precisions is None and precision == "bf16" and gain < 1:
            reason = f"bfloat16 multiplies matrices {gain:.2f} times as fast as float32 here"
            notebook.add(not_measured={**notebook.results.not_measured, f"{name} bf16": reason})
            continue
        yield precision, _loaded(settings, precision=precision)
        if plan.is_compiled:
            compiled = _loaded(settings, precision=precision, compile=True)
            if compiled.encoder.shapes(1) == (BATCH,):  # else it fell back
                yield f"{precision} compiled", compiled
            else:
                reason = "could not be compiled, or was no faster"
                notebook.add(not_measured={**notebook.results.not_measured, f"{name} {precision} compiled": reason})


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
) -> Iterator[tuple[Run, ...]]:
    """The runs of one block after the other."""
    for syntax, data in objects.items():
        for run in pipelines.values():
            run(data[:1])  # set up
        for block in range(plan.repeats):
            first = block % len(pipelines)
            titles = [*pipelines][first:] + [*pipelines][:first]
            yield tuple(_run(block, model, title, syntax, pipelines[title], data) for title in titles)
        progress(f"{model} {syntax}: {plan.repeats} blocks")


def _run(block: int, model: str, title: str, syntax: str, pipeline: Pipeline, data: Sequence[bytes]) -> Run:
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    pipeline(data)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return Run(
        block=block,
        model=model,
        pipeline=title,
        syntax=syntax,
        cpu_ms_per_image=1e3 * cpu_s / len(data),
        wall_ms_per_image=1e3 * wall_s / len(data),
    )


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


def _least_cpu_s(action: Callable[[], object], tries: int = 32, enough_s: float = 0.5) -> float:
    """Of several tries, fewer where one is slow: bfloat16 may be, without units for it."""
    spent: list[float] = []
    while len(spent) < tries and sum(spent) < enough_s:
        started_s = time.process_time()
        action()
        spent.append(time.process_time() - started_s)
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


def _soak(plan: Plan, work: Path, objects: dict[str, list[bytes]], notebook: _Notebook, progress: Progress) -> None:
    """From DICOM bytes to embedding, the encodings in turn, noting the memory after every twentieth."""
    folder = folder_of(plan.soak_model, work, plan.input_px)
    settings = VisionSettings(backbone=str(folder), device="cpu", input_size_px=plan.input_px, batch_size=BATCH)
    backbone = _loaded(settings, precision="float32")
    mixed = [data for together in zip(*objects.values(), strict=True) for data in together]
    sizes: list[int] = []
    done = 0
    for step in range(1, _SOAK_STEPS + 1):
        while done < step * plan.soak_frames // _SOAK_STEPS:
            _embed(mixed, backbone)
            done += len(mixed)
        sizes.append(_rss_bytes())
        progress(f"soak: {done} frames, {sizes[-1] / 1e6:.0f} MB resident")
        soak = Soak(frames=done, model=plan.soak_model, encodings=tuple(objects), rss_bytes=tuple(sizes))
        notebook.add(soak=soak)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


KNOWN_MODELS: Final = tuple(SIZES)
