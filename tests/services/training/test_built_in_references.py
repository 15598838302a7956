"""The random-weight references that come with Similis, and what they say of a real map and of a random one."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from services.training.dataset.phantom_dataset import phantom_cases
from services.training.explain_evaluation.lesion_frames import lesion_frames
from services.training.explain_evaluation.range_reference import range_reference
from services.training.request import recipe_of
from shared.pixels import PixelLimits
from shared.saliency.faithfulness import FaithfulnessParameters, measure_faithfulness
from shared.saliency.forwards import encoder_forward
from shared.saliency.heads import TorchHead, scorer
from shared.saliency.maps import Request
from shared.saliency.methods import explain, map_maker
from shared.saliency.reliability import Verdict, judge_map, map_range
from shared.saliency.vit_cx import METHOD, Parameters
from shared.settings import VisionSettings
from shared.vision.backbone import load_backbone
from shared.vision.explain_reference import LEAST_MAPS
from shared.vision.tasks import BUILT_IN, Task, load_task, task_names
from shared.vision.transform import to_model_input

SEED = 4 * 10**12  # no other phantom has it


def judged(task: Task, lead: float, range_: float) -> Verdict:
    """By the task's own reference, as the explainer's defaults would be."""
    return judge_map(
        lead,
        range_,
        task.explain_reference,
        head_id=task.head.id,
        method=METHOD,
        parameters=asdict(Parameters()),
        faithfulness=asdict(FaithfulnessParameters()),
    )


@pytest.mark.parametrize("name", task_names())
def test_every_task_has_a_reference_that_fits_its_head_and_the_defaults(name: str) -> None:
    task = load_task(BUILT_IN / name)
    kept = task.explain_reference
    assert kept is not None
    assert kept.n >= LEAST_MAPS
    assert kept.head_sha256 == task.head_sha256
    assert kept.backbone_id == task.head.backbone_id
    assert not judged(task, 1.5, 0.9).is_flagged
    assert judged(task, 0.0, 0.9).is_flagged


@pytest.mark.slow
def test_a_map_of_a_plain_lesion_is_checked_and_one_of_a_random_network_is_flagged() -> None:
    task = load_task(BUILT_IN / "blood-smear")
    backbone = load_backbone(VisionSettings(device="cpu"))
    (case,) = (one for one in phantom_cases(recipe_of(task.name), range(SEED, SEED + 2), 4.0) if one.label != "normal")
    (lesion,) = lesion_frames([case], backbone.input_size_px, PixelLimits())
    x = torch.from_numpy(to_model_input(lesion.frame, backbone.input_size_px))
    head, target = TorchHead(task.head, backbone.device), task.head.labels.index(lesion.label)
    made = explain(map_maker(backbone), Request(x, head, 1, target))
    assert made.probability > 0.5
    score = scorer(encoder_forward(backbone), head)
    measured = measure_faithfulness(score, x, made.values, target, seed=1, content=lesion.content)
    found = judged(task, measured.lead, map_range(made.values, made.mask_count, lesion.content))
    assert found.reliability.value == "checked", found.reason

    (random,) = range_reference(task, [case], backbone, images="the same", seed=50_000).maps
    assert judged(task, random.lead, random.range).is_flagged
