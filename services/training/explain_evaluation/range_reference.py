"""The random-weight reference of a task version: how far maps span that mean nothing, see `reliability`."""

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
from shared.saliency.forwards import explained
from shared.saliency.heads import TorchHead
from shared.saliency.maps import Request
from shared.saliency.masked_queue import Start, run_masked
from shared.saliency.methods import made
from shared.saliency.reliability import map_range
from shared.saliency.vit_cx import METHOD, Parameters, ViTCX
from shared.vision.backbone import Backbone
from shared.vision.explain_reference import ExplainReference
from shared.vision.tasks import Task
from shared.vision.transform import letterbox_box, to_model_input

MODE: Final = "exact-float32"
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def range_reference(
    task: Task,
    cases: Sequence[Case],
    backbone: Backbone,
    *,
    images: str,
    seed: int = 0,
    parameters: Parameters | None = None,
    limits: PixelLimits | None = None,
    progress: Progress | None = None,
) -> ExplainReference:
    """One map of each case's middle frame, each by another random network, of the class that it holds most probable.

    Blocks for minutes: a map takes some ten to eighty forward passes of the float32 model.

    Args:
        task: The version that the reference is of.
        cases: Of the task's kind; their labels do not matter.
        backbone: The head's.
        images: What the cases are, in words that name no file and no person.
        seed: Of weights and noise, one further for each map.
        parameters: Of ViT-CX, as the explainer will use them.
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
    chosen = parameters or Parameters()
    ranges = []
    for done, case in enumerate(cases):
        frame = middle_frame(case, limits or PixelLimits())
        ranges.append(_range_of(frame, task, backbone, seed + done, chosen))
        if progress:
            progress("maps of random networks", done + 1, len(cases))
    return ExplainReference.of(
        ranges,
        head_id=task.head.id,
        head_sha256=task.head_sha256,
        backbone_id=backbone.id,
        architecture=build_in_words(backbone),
        method=METHOD,
        mode=MODE,
        parameters=asdict(chosen),
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


def _range_of(frame: Frame, task: Task, backbone: Backbone, seed: int, parameters: Parameters) -> float:
    network, head = random_network(backbone, task.head, seed)
    model, size = explained(network), backbone.input_size_px
    x = torch.from_numpy(to_model_input(frame, size)).to(backbone.device)
    requests = iter([Request(x, TorchHead(head, backbone.device), seed)])

    def upcoming() -> Start | None:
        request = next(requests, None)
        return None if request is None else lambda: ViTCX(model, request, parameters, mode=MODE)

    (ended,) = run_masked(upcoming, model.clean, batch_size=backbone.batch_size)
    try:
        found = made(ended)
    except NotExplainableError:
        return 0.0  # a network that tells no place from another draws a flat map
    height, width = frame.pixels.shape[:2]
    content = letterbox_box(height, width, frame.pixel_aspect, size)
    return map_range(found.values, found.mask_count, content)
