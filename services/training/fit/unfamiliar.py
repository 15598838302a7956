"""What a head's training looked like, so that it can tell what is unlike it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.training.features.case_features import CaseFeatures
from shared.vision.familiarity import Familiarity, mean_patch_columns
from shared.vision.familiarity import study_distance as median_distance
from shared.vision.heads import LinearHead


def fit_familiarity(head: LinearHead, joined: NDArray[np.float32]) -> Familiarity:
    """Statistics of what the head read in training, (N, F); `shared.vision.familiarity` tells how it was chosen."""
    tokens = joined.shape[1] - (0 if head.lens is None else head.lens.columns)
    return Familiarity.fit(head.standardised(joined), mean_patch_columns(tokens // 4))


def study_distance(head: LinearHead, case: CaseFeatures) -> float:
    """Median distance of a case's frames from the training's.

    Raises:
        ValueError: the head cannot tell.
    """
    distances = head.distances(case.joined)
    if distances is None:
        raise ValueError("the head has no out-of-distribution statistics")
    return median_distance(distances)
