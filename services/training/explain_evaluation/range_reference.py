"""The random-weight reference of a task version: how far maps lead chance that mean nothing, see `reliability`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import torch

from services.training.dataset.cases import Case, DatasetError
from services.training.explain_evaluation.random_network import WEIGHTS, build_in_words, random_network
from services.training.features.case_features import Progress
from shared.errors import NotExplainableError, PermanentError, WeightsError
from shared.pixels import Frame, PixelLimits, read_frames, read_header, read_image
from shared.saliency.faithfulness import FaithfulnessParameters, measure_faithfulness
from shared.saliency.forwards import encoder_forward, explained
from shared.saliency.heads import TorchHead, scorer
from shared.saliency.maps import Request
from shared.saliency.masked_queue import Start, run_masked
from shared.saliency.methods import made
from shared.saliency.modes import AUTO, FAST_MODES
from shared.saliency.reliability import map_range
from shared.saliency.vit_cx import METHOD, Parameters, ViTCX
from shared.vision.backbone import Backbone
from shared.vision.explain_reference import ExplainReference, RandomMap
from shared.vision.tasks import Task
from shared.vision.transform import letterbox_box, to_model_input

_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def range_reference(
    task: Task,
    cases: Sequence[Case],
    backbone: Backbone,
    *,
    images: str,
    seed: int = 0,
    parameters: Parameters | None = None,
    faithfulness: FaithfulnessParameters | None = None,
    limits: PixelLimits | None = None,
    progress: Progress | None = None,
) -> ExplainReference:
    """One map of each case's middle frame, each by another random network, of the class that it holds most probable.

    Blocks for minutes: a map takes some sixty forward passes, in the backbone's precision.

    Args:
        task: The version that the reference is of.
        cases: Of the task's kind; their labels do not matter.
        backbone: The head's.
        images: What the cases are, in words that name no file and no person.
        seed: Of weights and noise, one further for each map.
        parameters: Of ViT-CX, as the explainer will use them.
        faithfulness: How insertion and deletion are measured, likewise.
        limits: Of what is decoded.
        progress: Called after each map.

    Raises:
        DatasetError: there is no case, or one cannot be read.
        WeightsError: the head does not read this backbone's features.
    """
    if task.head.backbone_id != backbone.id:
        raise WeightsError(f"the head of {task.name} reads {task.head.backbone_id}, the backbone is {backbone.id}")
    if not cases:
        raise DatasetError("a reference needs images")
    chosen, measured_by = parameters or Parameters(), faithfulness or FaithfulnessParameters()
    maps = []
    for done, case in enumerate(cases):
        frame = middle_frame(case, limits or PixelLimits())
        maps.append(_random_map(frame, task, backbone, seed + done, chosen, measured_by))
        if progress:
            progress("maps of random networks", done + 1, len(cases))
    return ExplainReference.of(
        maps,
        head_id=task.head.id,
        head_sha256=task.head_sha256,
        backbone_id=backbone.id,
        architecture=build_in_words(backbone),
        method=METHOD,
        mode=f"{AUTO}-{backbone.precision}",
        parameters=asdict(chosen),
        faithfulness={name: value for name, value in asdict(measured_by).items() if name != "batch_size"},
        weights=WEIGHTS,
        images=images,
        seed=seed,
    )


def middle_frame(case: Case, limits: PixelLimits) -> Frame:
    """The middle frame of a case's middle object.

    Raises:
        DatasetError: it cannot be read.
    """
    objects = case.load().objects
    if not objects:
        raise DatasetError(f"{case.study} holds no image")
    data = objects[len(objects) // 2]
    try:
        if data.startswith(_PICTURES):
            return read_image(data, limits=limits)
        count = read_header(data, limits=limits).number_of_frames
        return read_frames(data, frame_numbers=[count // 2 + 1], limits=limits)[0]
    except PermanentError as error:
        raise DatasetError(f"{case.study}: {error}") from error


def _random_map(
    frame: Frame,
    task: Task,
    backbone: Backbone,
    seed: int,
    parameters: Parameters,
    measured_by: FaithfulnessParameters,
) -> RandomMap:
    network, random_head = random_network(backbone, task.head, seed)
    model, forward, head = explained(network), encoder_forward(network), TorchHead(random_head, backbone.device)
    x = torch.from_numpy(to_model_input(frame, backbone.input_size_px)).to(backbone.device)
    requests = iter([Request(x, head, seed)])

    def upcoming() -> Start | None:
        request = next(requests, None)
        return None if request is None else lambda: ViTCX(model, request, parameters, seconds=FAST_MODES[AUTO])

    (ended,) = run_masked(upcoming, forward, batch_size=backbone.batch_size)
    try:
        found = made(ended)
    except NotExplainableError:
        return RandomMap(lead=0.0, range=0.0)  # a network that tells no place from another draws a flat map
    height, width = frame.pixels.shape[:2]
    content = letterbox_box(height, width, frame.pixel_aspect, backbone.input_size_px)
    measured = measure_faithfulness(
        scorer(forward, head), x, found.values, found.target, seed=seed, content=content, parameters=measured_by
    )
    return RandomMap(lead=measured.lead, range=map_range(found.values, found.mask_count, content))
