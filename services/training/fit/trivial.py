"""Shortcut check: what the same probe reaches on features that see no lesion shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from services.training.features.case_features import CaseFeatures
from services.training.features.frame_views import Floats32
from services.training.fit.linear_probe import Bools, case_classes, case_logits, fit_probe
from services.training.measures.metrics import Metrics, measure

_BINS: Final = 32


def trivial_baselines(
    training: Sequence[CaseFeatures], test: Sequence[CaseFeatures], labels: tuple[str, ...], finding: Bools, seed: int
) -> dict[str, Metrics]:
    """Test figures of the probe on grey thumbnails and on histograms of each colour."""
    kinds: dict[str, Callable[[Floats32], Floats32]] = {
        "raw pixels, 32 x 32": lambda images: images.mean(axis=-1).reshape(len(images), -1),
        f"histogram, {_BINS} bins": lambda images: np.stack([_histogram(image) for image in images]),
    }
    results = {}
    for name, of in kinds.items():
        seen, unseen = (
            [replace(case, cls=of(case.thumbnails), joined=of(case.thumbnails)) for case in cases]
            for cases in (training, test)
        )
        head = fit_probe(seen, task="trivial", labels=labels, finding=finding, backbone_id=name, seed=seed).head
        results[name] = measure(
            head.probabilities(case_logits(head, unseen, finding)),
            case_classes(unseen, labels),
            labels,
            subjects=np.array([case.case.patient for case in unseen]),
            abstain_below=0.0,
            finding=finding,
        )
    return results


def _histogram(image: Floats32) -> Floats32:
    """Of each colour, joined; of a grey image, once."""
    grey = bool((image == image[..., :1]).all())
    channels = [image[..., 0]] if grey else [image[..., channel] for channel in range(3)]
    counts = [np.histogram(channel, bins=_BINS, range=(0, 1), density=True)[0] for channel in channels]
    return np.concatenate([*counts, *[counts[0]] * (3 - len(counts))]).astype(np.float32)
