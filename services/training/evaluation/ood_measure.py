"""How well a head's distance tells strange images from fresh studies of its own kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.training.evaluation.report import StrangeFigures
from services.training.evaluation.strange_images import StrangeSet
from services.training.features.case_features import Encoder
from services.training.measures.bootstrap import exact_share
from services.training.measures.scores import Floats, auroc
from shared.vision.heads import LinearHead


def measure_strange(
    head: LinearHead, backbone: Encoder, familiar: Floats, limit: float, sets: Sequence[StrangeSet]
) -> tuple[StrangeFigures, ...]:
    """Figures of each kind of strange image, the farthest last.

    Args:
        head: With out-of-distribution statistics.
        backbone: The one whose features the head reads.
        familiar: Study distances of fresh cases.
        limit: Above it a study is called out of distribution.
        sets: The strange images; each image is judged as a study of one frame.

    Raises:
        ValueError: the head has no such statistics.
    """
    found = []
    for kind in sets:
        distances = head.distances(head.read(backbone.encode(kind.frames)))
        if distances is None:
            raise ValueError("the head has no out-of-distribution statistics")
        found.append(
            StrangeFigures(
                kind=kind.kind,
                n=len(distances),
                auroc=round(
                    auroc(
                        np.concatenate([familiar, distances]),
                        np.arange(len(familiar) + len(distances)) >= len(familiar),
                    ),
                    4,
                ),
                flagged=exact_share(int((distances > limit).sum()), len(distances)),
                distance=round(float(np.median(distances)), 4),
                is_required=kind.is_required,
            )
        )
    return tuple(sorted(found, key=lambda figures: (not figures.is_required, figures.distance)))
