"""Measure the kept brain-mr head again, on subjects that neither training nor its card has seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.training.anatomy import from_nifti, icbm152
from services.training.card import Evaluation
from services.training.features import FeatureSource
from services.training.train import TASK, Progress, evaluate, gather
from shared.errors import WeightsError
from shared.settings import VisionSettings
from shared.vision.backbone import load_backbone
from shared.vision.tasks import BUILT_IN, load_task

_SEED_BLOCK: Final = 2 * 10**12  # above training's


def evaluate_brain_mr(
    *,
    studies: int = 40,
    seed: int = 0,
    contrasts: Sequence[float] = (4.0,),
    held_out_anatomies: Sequence[Path] = (),
    vision: VisionSettings | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, ...]:
    """Figures of the kept head on fresh phantoms; print them with `card.evaluation_table`.

    Args:
        studies: Per contrast and anatomy.
        seed: Another seed, other subjects.
        contrasts: See `PhantomSpec`.
        held_out_anatomies: Skull-stripped T1 NIfTI files to evaluate on as well.
        vision: The backbone and where tasks lie; unset: the defaults.
        progress: Called as studies are made.

    Raises:
        WeightsError: the head does not read this backbone's features.
        ConfigurationError: the task or an anatomy can't be read.
    """
    vision = vision or VisionSettings()
    backbone = load_backbone(vision)
    task = load_task((vision.tasks_dir or BUILT_IN) / TASK)
    if task.head.backbone_id != backbone.id:
        raise WeightsError(f"the head of {TASK} reads {task.head.backbone_id}, the backbone is {backbone.id}")
    first = _SEED_BLOCK + seed * 10**7
    evaluations = []
    for anatomy in (icbm152(), *map(from_nifti, held_out_anatomies)):
        source = FeatureSource(anatomy, backbone, vision.cache_dir)
        for contrast in contrasts:
            title = f"{anatomy.name}, contrast {contrast:g}"
            made = gather(source, range(first, first + studies), contrast, title, progress)
            evaluations.append(
                evaluate(
                    task.head,
                    made,
                    anatomy,
                    "Fresh subjects",
                    task.definition.abstain_below,
                    task.definition.ood_distance_above or float("inf"),
                )
            )
    return tuple(evaluations)
