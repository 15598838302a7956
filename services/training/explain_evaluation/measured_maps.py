"""Every method's map of every frame, measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from services.training.explain_evaluation.compared_maps import Made, Method
from services.training.explain_evaluation.infidelity import Removals, infidelity, removals
from services.training.explain_evaluation.lesion_frames import LesionFrame
from services.training.explain_evaluation.localisation import localise
from services.training.features.case_features import Progress
from shared.saliency.faithfulness import Curves, Faithfulness, FaithfulnessParameters, PixelGames, faithfulness_of
from shared.saliency.forwards import Forward
from shared.saliency.heads import TorchHead, scorer
from shared.saliency.maps import Request
from shared.saliency.reliability import map_range
from shared.vision.transform import to_model_input

_OTHER_SEED: Final = 2**31  # far from the seeds of the frames


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredMap:
    """One method's map of one frame.

    Attributes:
        figures: By the names of `report.FIGURES`; NaN where not defined.
        range: See `reliability.map_range`.
        faithfulness: Insertion and deletion, with their curves.
        made: The map.
    """

    figures: dict[str, float]
    range: float
    faithfulness: Faithfulness
    made: Made


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredFrame:
    """All maps of one frame.

    Attributes:
        lesion: The frame.
        probability: Of its true class.
        chance: Curves of the random orders.
        maps: By method.
    """

    lesion: LesionFrame
    probability: float
    chance: tuple[Curves, ...]
    maps: dict[str, MeasuredMap]


def measured_maps(
    frames: Iterable[LesionFrame],
    head: TorchHead,
    forward: Forward,
    methods: Sequence[Method],
    *,
    parameters: FaithfulnessParameters,
    device: torch.device,
    seed: int,
    total: int,
    progress: Progress | None = None,
) -> tuple[list[MeasuredFrame], int]:
    """Measure all methods on the frames that the head judges right. Blocks: a frame takes seconds to minutes.

    Args:
        frames: With their lesions.
        head: Of the task.
        forward: The backbone's, for insertion and deletion.
        methods: What to measure.
        parameters: Of insertion and deletion; infidelity fills as deletion does.
        device: Where the backbone lies.
        seed: Of the noise and the random orders, one further for each frame.
        total: Frames, for the progress.
        progress: Called after each frame.

    Returns:
        The frames, and how many were left out.

    Raises:
        NotExplainableError: a method makes no map of a frame.
    """
    found: list[MeasuredFrame] = []
    left_out = 0
    for done, lesion in enumerate(frames, start=1):
        x = torch.from_numpy(to_model_input(lesion.frame, lesion.mask.shape[0])).to(device)
        target = head.labels.index(lesion.label)
        with torch.inference_mode():
            p_x = head(forward(x[None]))[0]
        if int(p_x.argmax()) != target:
            left_out += 1
        else:
            score = scorer(forward, head)
            games = PixelGames(score, x, target, content=lesion.content, parameters=parameters)
            removed = removals(
                score,
                x,
                target,
                lesion.content,
                seed=seed + done,
                fill=parameters.fill,
                batch_size=parameters.batch_size,
            )
            chance = tuple(games.play(games.random_orders(seed + done)))
            request = Request(x, head, seed + done, target)
            maps = {method.name: _measured(method, request, lesion, games, chance, removed) for method in methods}
            found.append(MeasuredFrame(lesion, float(p_x[target]), chance, maps))
        if progress:
            progress("maps", done, total)
    return found, left_out


def _measured(
    method: Method,
    request: Request,
    lesion: LesionFrame,
    games: PixelGames,
    chance: Sequence[Curves],
    removed: Removals,
) -> MeasuredMap:
    made = method.make(request, lesion.content)
    faithfulness = faithfulness_of(games, made.values, request.seed, chance)
    stability = float("nan")
    if method.is_seeded:
        other = Request(request.x, request.head, (request.seed + _OTHER_SEED) % 2**32, request.target)
        stability = _correlation(made.values, method.make(other, lesion.content).values, lesion)
    return MeasuredMap(
        figures={
            **localise(made.values, lesion.mask, lesion.content, seed=request.seed),
            "insertion": faithfulness.insertion,
            "deletion": faithfulness.deletion,
            "infidelity": infidelity(made.values, removed),
            "seed_stability": stability,
        },
        range=map_range(made.values, made.mask_count, lesion.content),
        faithfulness=faithfulness,
        made=made,
    )


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32], lesion: LesionFrame) -> float:
    """Pearson's, over the frame; NaN of a map that is the same everywhere."""
    box = lesion.content
    at = np.s_[box.top : box.top + box.height, box.left : box.left + box.width]
    left, right = (np.asarray(values[at], np.float64).ravel() for values in (first, second))
    left, right = left - left.mean(), right - right.mean()
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else float("nan")
