"""`python -m bench.explainer.agreement`: what each mode changes in the maps of phantoms, by the kept heads.

The frame of each phantom study that shows most of its lesion is explained, for the class that the head gives it. A
row of the fast forward does not depend on its batch, so one run of all passes serves all modes: they are given the
rows that it kept. Phantom results. Research use only.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from services.training.phantoms import recipe
from shared.errors import SimilisError
from shared.pixels import PixelLimits, read_frames
from shared.saliency.forwards import Forward, encoder_forward, explained
from shared.saliency.heads import TorchHead
from shared.saliency.maps import Request, SaliencyMap
from shared.saliency.masked_queue import run_masked
from shared.saliency.methods import made
from shared.saliency.modes import FAST_MODES
from shared.saliency.vit_cx import Seconds, ViTCX
from shared.settings import VisionSettings
from shared.vision.backbone import Backbone, load_backbone
from shared.vision.tasks import Task, load_tasks
from shared.vision.transform import to_model_input

FIRST_SEED: Final = 7_100_000  # phantoms that neither training nor the demo has


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModeOnFrame(_Kept):
    """One mode's map beside the exact one."""

    mode: str
    pearson: float
    largest_difference: float
    """Over the exact map's range."""
    masks: int
    forwards: int


class FrameAgreement(_Kept):
    """One frame in all modes."""

    task: str
    seed: int
    label: str
    target: str
    probability: float
    reference: str
    """exact-float32, or two-pass in float32 where the exact mode was not run."""
    masks: int
    value_range: float
    modes: tuple[ModeOnFrame, ...]


class Agreement(_Kept):
    """All frames."""

    format: int = 1
    made_at: str
    torch: str
    backbone_id: str
    precision: str
    frames: tuple[FrameAgreement, ...]


def main(
    frames: Annotated[int, typer.Option(min=1, help="Frames of each task.")] = 6,
    exact: Annotated[int, typer.Option(min=0, help="Of these, frames that the exact mode runs too.")] = 1,
    tasks: Annotated[str | None, typer.Option(help="Such as brain-mr,lung-ct; default: all.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where to keep every frame.")] = None,
    from_json: Annotated[Path | None, typer.Option(help="Measure nothing: show what was kept by --json.")] = None,
) -> None:
    """Correlation of each mode's maps with the exact ones."""
    if from_json is not None:
        print(markdown(Agreement.model_validate_json(from_json.read_text())))
        return
    backbone = load_backbone(VisionSettings())
    found = Agreement(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        torch=torch.__version__,
        backbone_id=backbone.id,
        precision=backbone.precision,
        frames=(),
    )
    for one in _measured(backbone, frames, exact, tasks.split(",") if tasks else None):
        print(one.model_dump_json(), file=sys.stderr, flush=True)
        found = found.model_copy(update={"frames": (*found.frames, one)})
        if json is not None:  # it takes long: what is there is kept
            json.parent.mkdir(parents=True, exist_ok=True)
            json.write_text(found.model_dump_json(indent=1) + "\n")
    print(markdown(found))


def markdown(agreement: Agreement) -> str:
    """The table of modes."""
    lines = [
        "| mode | task | frames | least Pearson | median | other number of masks | passes, share of exact |",
        "|---|---|---|---|---|---|---|",
    ]
    tasks = list(dict.fromkeys(frame.task for frame in agreement.frames))
    for mode in dict.fromkeys(one.mode for frame in agreement.frames for one in frame.modes):
        for task in (*tasks, "all"):
            pairs = [
                (frame, one)
                for frame in agreement.frames
                for one in frame.modes
                if one.mode == mode and task in (frame.task, "all")
            ]
            if not pairs:
                continue
            correlations = [one.pearson for _, one in pairs]
            passes = statistics.fmean(one.forwards / (1 + 2 * frame.masks) for frame, one in pairs)
            others = sum(one.masks != frame.masks for frame, one in pairs)
            lines.append(
                f"| {mode} | {task} | {len(pairs)} | {min(correlations):.5f} | {statistics.median(correlations):.5f} "
                f"| {others} | {100 * passes:.0f} % |"
            )
    return "\n".join(lines)


def _measured(backbone: Backbone, frames: int, exact: int, names: list[str] | None) -> Iterator[FrameAgreement]:
    tasks = [task for task in load_tasks(None, backbone.id) if names is None or task.name in names]
    for number in range(frames):
        for task in tasks:
            yield _frame(backbone, task, FIRST_SEED + number, is_exact=number < exact)


def _frame(backbone: Backbone, task: Task, seed: int, *, is_exact: bool) -> FrameAgreement:
    labels = [entry.label for entry in task.definition.classes]
    label = labels[(seed + 1) % len(labels)]
    x = torch.from_numpy(phantom_input(task.name, seed, label, backbone.input_size_px))
    head, model = TorchHead(task.head, backbone.device), explained(backbone)
    request = Request(x.to(backbone.device), head, seed)

    def run(forward: Forward, seconds: Seconds) -> SaliencyMap:
        starts = iter([lambda: ViTCX(model, request, seconds=seconds)])
        (ended,) = run_masked(lambda: next(starts, None), forward, batch_size=backbone.batch_size)
        return made(ended)

    forward, precision = _remembering(encoder_forward(backbone)), backbone.precision
    maps = {f"{mode}-{precision}": run(forward, seconds) for mode, seconds in FAST_MODES.items()}
    reference = run(model.clean, "all") if is_exact or precision != "float32" else maps.pop(f"two-pass-{precision}")
    return FrameAgreement(
        task=task.name,
        seed=seed,
        label=label,
        target=task.head.labels[reference.target],
        probability=reference.probability,
        reference="exact-float32" if is_exact or precision != "float32" else "two-pass-float32",
        masks=reference.mask_count,
        value_range=float(np.ptp(reference.values)),
        modes=tuple(_compared(name, found, reference) for name, found in maps.items()),
    )


def _compared(mode: str, found: SaliencyMap, reference: SaliencyMap) -> ModeOnFrame:
    return ModeOnFrame(
        mode=mode,
        pearson=float(np.corrcoef(found.values.ravel(), reference.values.ravel())[0, 1]),
        largest_difference=float(np.abs(found.values - reference.values).max() / np.ptp(reference.values)),
        masks=found.mask_count,
        forwards=found.forwards,
    )


def _remembering(forward: Forward) -> Forward:
    rows: dict[bytes, Tensor] = {}

    def remembered(pixels: Tensor) -> Tensor:
        keys = [hashlib.sha256(image.cpu().numpy().tobytes()).digest() for image in pixels]
        unknown = [place for place, key in enumerate(keys) if key not in rows]
        if unknown:
            rows.update(zip((keys[place] for place in unknown), forward(pixels[unknown]), strict=True))
        return torch.stack([rows[key] for key in keys])

    return remembered


def phantom_input(task: str, seed: int, label: str, size_px: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(3, S, S): the frame of a phantom study that shows most of its lesion."""
    study = recipe(task).study(seed, label)
    masks = study.masks or ()
    most = int(np.argmax([np.asarray(mask).sum() for mask in masks])) if masks else 0
    by_object = [read_frames(data, limits=PixelLimits()) for data in study.objects]
    frames = [frame for frames in by_object for frame in frames]
    return to_model_input(frames[most], size_px)


if __name__ == "__main__":
    try:
        typer.run(main)
    except SimilisError as error:
        print(f"bench.explainer.agreement: {error}", file=sys.stderr)
        sys.exit(1)
