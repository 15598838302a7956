"""Shortcut check: what the probe reaches on features that see no lesion shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.training.features import StudyFeatures
from services.training.lesion import LABELS
from services.training.metrics import Metrics, measure
from services.training.probe import fit_head, study_classes, study_logits


def shortcut_baselines(
    training: Sequence[StudyFeatures], test: Sequence[StudyFeatures], *, task: str, finding: NDArray[np.bool_]
) -> dict[str, Metrics]:
    """Study accuracy of the same probe on raw pixels and on histograms, which see no lesion shape."""

    def histogram(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([np.histogram(image, bins=32, range=(0, 1), density=True)[0] for image in thumbnails]).astype(
            np.float32
        )

    def pixels(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
        return thumbnails.reshape(len(thumbnails), -1)

    results = {}
    for name, of in (("raw pixels, 32 x 32", pixels), ("histogram, 32 bins", histogram)):
        seen, unseen = (
            [StudyFeatures(s.spec, of(s.thumbnails), s.area_mm2, s.thumbnails) for s in group]
            for group in (training, test)
        )
        head, _ = fit_head(seen, task=task, labels=LABELS, finding=finding, backbone_id=name)
        results[name] = measure(
            head.probabilities(study_logits(head, unseen, finding)),
            study_classes(unseen),
            LABELS,
            subjects=np.arange(len(unseen)),
            abstain_below=0.0,
        )
    return results
