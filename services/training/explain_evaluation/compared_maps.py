"""The maps that are set beside each other, by name: those of Similis, Grad-CAM, and two that see nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.explain_evaluation.grad_cam import METHOD as GRAD_CAM
from services.training.explain_evaluation.grad_cam import grad_cam
from shared.saliency import vit_cx
from shared.saliency.forwards import explained
from shared.saliency.maps import Request
from shared.saliency.methods import MapMaker, MethodName, explain, map_maker
from shared.saliency.modes import ModeName
from shared.saliency.rise import RiseParameters
from shared.vision.backbone import Backbone
from shared.vision.transform import Letterbox

Floats = NDArray[np.float32]

CENTRE: Final = "centre prior"
RANDOM: Final = "random"
_CELLS: Final = 16


@dataclass(frozen=True, slots=True)
class Made:
    """A map.

    Attributes:
        values: (H, W).
        mask_count: N; 1 for methods without masks.
        forwards: Images that went through the backbone.
    """

    values: Floats
    mask_count: int = 1
    forwards: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """A way to make maps.

    Attributes:
        name: As tables have it.
        make: The map of a request, of a frame that lies there.
        is_seeded: Whether another seed gives another map.
    """

    name: str
    make: Callable[[Request, Letterbox], Made]
    is_seeded: bool = False


def vit_cx_name(delta: float) -> str:
    """As tables have it."""
    return f"ViT-CX, delta {delta:g}"


def compared_maps(
    backbone: Backbone,
    *,
    deltas: Sequence[float],
    rise_masks: int,
    mode: ModeName = "auto",
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[Method, ...]:
    """The methods, ViT-CX with the first delta first.

    Args:
        backbone: The explained one.
        deltas: Of ViT-CX, each a method of its own.
        rise_masks: 0: without RISE.
        mode: How ViT-CX is run.
        fill: What stands where a mask removes the image.
    """
    model = explained(backbone)
    methods = [
        _of(
            vit_cx_name(delta),
            map_maker(backbone, "vit-cx", mode=mode, parameters=vit_cx.Parameters(delta=delta, fill=fill)),
            is_seeded=True,
        )
        for delta in deltas
    ]
    cheap: tuple[MethodName, ...] = ("rollout", "legrad")
    methods += [_of(name, map_maker(backbone, name)) for name in cheap]
    if rise_masks:
        rise = map_maker(backbone, "rise", rise=RiseParameters(masks=rise_masks, fill=fill))
        methods.append(_of(f"RISE, {rise_masks} masks", rise, is_seeded=True))
    methods.append(Method(GRAD_CAM, lambda request, _: Made(grad_cam(model, request), forwards=1)))
    methods.append(Method(CENTRE, lambda request, content: Made(centre_prior(_size(request), content))))
    methods.append(Method(RANDOM, lambda request, _: Made(random_map(_size(request), request.seed)), is_seeded=True))
    return tuple(methods)


def centre_prior(size: tuple[int, int], content: Letterbox) -> Floats:
    """(H, W): the nearer the frame's centre, the higher. It knows that lesions are seldom at the edge."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre = content.top + (content.height - 1) / 2, content.left + (content.width - 1) / 2
    prior: Floats = (-np.hypot(rows - centre[0], columns - centre[1])).astype(np.float32)
    return prior


def random_map(size: tuple[int, int], seed: int) -> Floats:
    """(H, W): 16 x 16 random cells."""
    cells = np.random.default_rng(seed).random((_CELLS, _CELLS)).astype(np.float32)
    rows, columns = (np.arange(length) * _CELLS // length for length in size)
    return cells[np.ix_(rows, columns)]


def _of(name: str, maker: MapMaker, *, is_seeded: bool = False) -> Method:
    return Method(name, partial(_made, maker), is_seeded)


def _made(maker: MapMaker, request: Request, _: Letterbox) -> Made:
    made = explain(maker, request)
    return Made(made.values, made.mask_count if maker.method == vit_cx.METHOD else 1, made.forwards)


def _size(request: Request) -> tuple[int, int]:
    return request.x.shape[1], request.x.shape[2]
