"""Do features that see no lesion tell a phantom's classes apart? Command and functions.

    python -m services.training.phantoms.shortcut_proof lung-ct --studies 210 --backbone

One study a virtual subject, classes in turn. Each kind of feature gets the same probe: standardised, logistic
regression, its strength chosen in an inner cross-validation, subjects never on both sides. A recipe is sound where
the trivial kinds stay near chance and the backbone does clearly better. Phantom results. Research use only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from services.training.phantoms import NAMES, recipe
from services.training.phantoms.recipe import LabelledStudy, PhantomRecipe
from shared.pixels import Frame, PixelLimits, read_frames

Features = NDArray[np.float32]  # (N, F), one row a study
Ints = NDArray[np.int64]
STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
FOLDS: Final = 5
WAYS: Final = {1: "new subjects", 2: "new source"}  # what is never on both sides
_SEED_BLOCK: Final = 5 * 10**11  # apart from training's and the demo's seeds


def make_studies(
    phantom: PhantomRecipe, count: int, *, contrast: float = 4.0, first_seed: int = _SEED_BLOCK
) -> list[LabelledStudy]:
    """`count` subjects, the classes in turn, the sources as the seeds draw them."""
    labels = phantom.labels
    return [phantom.study(first_seed + index, labels[index % len(labels)], contrast=contrast) for index in range(count)]


def frames_of(study: LabelledStudy) -> list[Frame]:
    """The study's frames, by the very path that DICOM files take."""
    return [frame for item in study.objects for frame in read_frames(item, limits=PixelLimits())]


def trivial_features(frames: Sequence[Frame]) -> dict[str, Features]:
    """Kinds of features (F,) of one study, the mean over its frames: raw pixels, histogram of each colour, HOG."""
    thumbnails = [_resized(frame, 32) for frame in frames]
    histograms = [
        np.concatenate(
            [np.histogram(channel, bins=32, range=(0, 1), density=True)[0] for channel in np.moveaxis(image, -1, 0)]
        )
        for image in (np.atleast_3d(frame.pixels) for frame in frames)
    ]
    gradients = [
        hog(_resized(frame, 128).mean(axis=-1), orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
        for frame in frames
    ]
    kinds = {
        "raw pixels, 32 x 32": [image.ravel() for image in thumbnails],
        "histogram, 32 bins a colour": histograms,
        "HOG": gradients,
    }
    return {name: np.mean(rows, axis=0).astype(np.float32) for name, rows in kinds.items()}


def cross_validated_hits(features: Features, classes: Ints, groups: Ints) -> NDArray[np.bool_]:
    """(N,) whether a probe that never saw the group names the class."""
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    # A turn onto at most N axes changes no inner product: the same probe, faster.
    left, singular, _ = np.linalg.svd(scaled.astype(np.float64), full_matrices=False)
    turned = left * singular
    hits = np.zeros(len(classes), np.bool_)
    folds = min(FOLDS, len(np.unique(groups)))
    for seen, unseen in GroupKFold(folds).split(turned, classes, groups):
        best = max(STRENGTHS, key=lambda strength: _inner_accuracy(strength, turned[seen], classes[seen], groups[seen]))
        hits[unseen] = _probe(best).fit(turned[seen], classes[seen]).predict(turned[unseen]) == classes[unseen]
    return hits


def wilson_interval(hits: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    count, share, z = len(hits), float(hits.mean()), 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return middle - half, middle + half


def prove(
    phantom: PhantomRecipe,
    count: int,
    *,
    contrast: float = 4.0,
    backbone: Callable[[Sequence[Frame]], Features] | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracy and interval of each kind of feature on `count` studies; `backbone` gives (n, F) of n frames.

    Raises:
        ValueError: there are fewer studies than four a class.
    """
    if count < 4 * len(phantom.labels):
        raise ValueError("at least four studies a class are needed")
    rows: dict[str, list[Features]] = {}
    studies = []
    for study in make_studies(phantom, count, contrast=contrast):
        frames = frames_of(study)
        kinds = trivial_features(frames)
        if backbone is not None:
            kinds["backbone"] = backbone(frames).mean(axis=0)
        for name, row in kinds.items():
            rows.setdefault(name, []).append(row)
        studies.append((study.label, study.patient, study.source))
    classes = np.array([phantom.labels.index(label) for label, _, _ in studies])
    results = {}
    for column, way in WAYS.items():
        names = sorted({study[column] for study in studies})
        if len(names) < FOLDS - 1:
            continue
        groups = np.array([names.index(study[column]) for study in studies])
        for name, features in rows.items():
            hits = cross_validated_hits(np.stack(features), classes, groups)
            low, high = wilson_interval(hits)
            results[f"{name}; {way}"] = {
                "accuracy": round(float(hits.mean()), 3),
                "low": round(low, 3),
                "high": round(high, 3),
            }
    return results


def _probe(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000)


def _inner_accuracy(strength: float, features: NDArray[np.float64], classes: Ints, groups: Ints) -> float:
    folds = min(3, len(np.unique(groups)))
    hits = 0
    for seen, unseen in GroupKFold(folds).split(features, classes, groups):
        probe = _probe(strength).fit(features[seen], classes[seen])
        hits += int((probe.predict(features[unseen]) == classes[unseen]).sum())
    return hits / len(classes)


def _resized(frame: Frame, side: int) -> NDArray[np.float32]:
    """(side, side, 1 or 3)."""
    channels = np.moveaxis(np.atleast_3d(frame.pixels), -1, 0)
    small = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize((side, side), Image.Resampling.BOX))
        for channel in channels
    ]
    return np.stack(small, axis=-1).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results of one recipe as JSON."""
    parser = argparse.ArgumentParser(description="Which features tell a phantom's classes apart? Research use only.")
    parser.add_argument("task", choices=NAMES)
    parser.add_argument("--studies", type=int, default=210)
    parser.add_argument("--contrast", type=float, default=4.0)
    parser.add_argument("--backbone", action="store_true", help="the frozen backbone too (slow)")
    options = parser.parse_args(arguments)
    encode = None
    if options.backbone:
        from shared.settings import VisionSettings
        from shared.vision.backbone import load_backbone

        loaded = load_backbone(VisionSettings())

        def encode(frames: Sequence[Frame]) -> Features:
            return loaded.encode(list(frames)).joined()

    phantom = recipe(options.task)
    results = prove(phantom, options.studies, contrast=options.contrast, backbone=encode)
    report = {"task": options.task, "studies": options.studies, "chance": round(1 / len(phantom.labels), 3)}
    print(json.dumps({**report, "contrast": options.contrast, "results": results}, indent=1))


if __name__ == "__main__":
    main()
