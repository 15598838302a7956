"""One frame with a lesion among many healthy ones: what the rule from frames to the study makes of it.

    python -m bench.one_lesion_frame brain-mr --source colin27 --json bench/results/one-lesion-frame.json

Frames of fresh phantoms through the task's head. Studies are put together from them: N healthy frames, and one of a
lesion. Healthy frames come of many subjects, those of a real study of one: the figures are of the rule, not of
patients. Phantom results. Research use only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from services.training.dataset.phantom_dataset import held_out_cases
from services.training.evaluation.measured_task import measured_task
from services.training.features.case_features import CaseEncoder, CaseFeatures, Encoder, frame_choice
from services.training.fit.linear_probe import stack_frames
from services.training.phantoms import NAMES
from services.training.progress_bars import progress_bars
from services.training.request import recipe_of
from services.training.settings import TrainSettings
from shared.pixels import PixelLimits
from shared.vision.aggregate import aggregate, finding_margins
from shared.vision.tasks import Task

CLEAR_MARGIN: Final = 4.0
HEALTHY_FRAMES: Final = (8, 64, 200)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FrameLogits:
    """Frames of studies whose truth is known.

    Attributes:
        healthy: (H, C) logits of all frames of studies without a finding.
        lesion: (L, C) logits of the frames that show a finding.
        classes: (L,) which.
    """

    healthy: Floats
    lesion: Floats
    classes: Ints


def frame_logits(task: Task, cases: Sequence[CaseFeatures]) -> FrameLogits:
    """The logits of `cases`, encoded with the head's lens."""
    rows = stack_frames(cases, task.head.labels)
    logits = task.head.logits(rows.joined).astype(np.float64)
    of_healthy = np.array([not task.finding[task.head.labels.index(case.label)] for case in cases])[rows.case]
    shows = task.finding[rows.classes] & rows.is_known
    return FrameLogits(logits[of_healthy], logits[shows], rows.classes[shows])


def measure(task: Task, frames: FrameLogits, *, studies: int, seed: int) -> dict[str, Any]:
    """Shares over `studies` made-up studies of each size: named by the rule, by a plain mean, and healthy ones ill.

    Raises:
        ValueError: no frame shows a lesion clearly, or there is no healthy one.
    """
    margins = finding_margins(frames.lesion, task.finding)
    clear = np.flatnonzero(margins > CLEAR_MARGIN)
    if not len(clear) or not len(frames.healthy):
        raise ValueError(f"there are {len(clear)} clear frames and {len(frames.healthy)} healthy ones: more studies")
    rng = np.random.default_rng(seed)
    sizes = []
    for count in HEALTHY_FRAMES:
        named = plain = every = ill = 0
        for _ in range(studies):
            healthy = frames.healthy[rng.integers(len(frames.healthy), size=count)]
            ill += bool(task.finding[_named(task, healthy)])
            at, other = rng.choice(clear), rng.integers(len(frames.lesion))
            study = np.concatenate([healthy, frames.lesion[at : at + 1]])
            named += _named(task, study) == frames.classes[at]
            plain += int(study.mean(axis=0).argmax()) == frames.classes[at]
            every += _named(task, np.concatenate([healthy, frames.lesion[other][None]])) == frames.classes[other]
        sizes.append(
            {
                "healthy_frames": count,
                "clear_named": round(named / studies, 4),
                "clear_named_by_plain_mean": round(plain / studies, 4),
                "any_named": round(every / studies, 4),
                "healthy_called_ill": round(ill / studies, 4),
            }
        )
    share = {label: round(float((margins[frames.classes == at] > CLEAR_MARGIN).mean()), 4)
             for at, label in enumerate(task.head.labels) if (frames.classes == at).any()}  # fmt: skip
    return {
        "head": task.head.id,
        "studies_of_each_size": studies,
        "frames": {"healthy": len(frames.healthy), "lesion": len(frames.lesion), "clear": len(clear)},
        "clear_above_margin": CLEAR_MARGIN,
        "clear_share_of_lesion_frames": share,
        "sizes": sizes,
    }


def encoded_cases(options: argparse.Namespace, task: Task, backbone: Encoder, console: Console) -> list[CaseFeatures]:
    """The phantoms of the options as the head reads them, from the cache where they were encoded before."""
    settings = TrainSettings()
    cases = held_out_cases(
        recipe_of(task.name), options.source, subjects=options.subjects, seed=options.seed, contrast=options.contrast
    )
    encoder = CaseEncoder(
        backbone, settings.vision.cache_dir, PixelLimits.of(settings.vision), lens=task.head.lens
    )  # fmt: skip
    with progress_bars(console) as advance:
        return encoder.encode(cases, choose=frame_choice(task.definition), title="studies", progress=advance)


def _named(task: Task, logits: Floats) -> int:
    return int(aggregate(logits, task.finding, task.head.temperature).probabilities.argmax())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures, and write them where asked."""
    from shared.vision.backbone import load_backbone

    options, console = _parser().parse_args(arguments), Console(stderr=True)
    settings = TrainSettings()
    task = measured_task(settings.tasks_dir(options.tasks_dir), options.task).task
    backbone = load_backbone(settings.vision, keep_patches=task.head.lens is not None)
    frames = frame_logits(task, encoded_cases(options, task, backbone, console))
    result = {
        "what": "phantom results, research use only",
        "command": f"python -m bench.one_lesion_frame {options.task} --source {options.source} "
        f"--subjects {options.subjects} --contrast {options.contrast:g} --studies {options.studies} "
        f"--seed {options.seed}",
        **measure(task, frames, studies=options.studies, seed=options.seed),
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.one_lesion_frame", description="Research use only.")
    parser.add_argument("task", choices=NAMES)
    parser.add_argument("--source", required=True, help="what the phantoms are built on; best one never trained on")
    parser.add_argument("--subjects", type=int, default=160, help="virtual subjects whose frames are drawn from")
    parser.add_argument("--studies", type=int, default=300, help="made-up studies of each size")
    parser.add_argument("--contrast", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks-dir", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    return parser


if __name__ == "__main__":
    main()
