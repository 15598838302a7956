"""The same probe, splits and scores on other features: is it the backbone that does it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from skimage.feature import hog

from services.training.evaluation.judged import judge_cases
from services.training.evaluation.report import ComparedFigures
from services.training.features.case_features import CaseFeatures
from services.training.features.frame_views import Floats32
from services.training.fit.calibration import calibrate_scores, calibrated
from services.training.fit.linear_probe import fit_probe
from services.training.fit.trivial import trivial_baselines
from services.training.measures.metrics import Metrics
from services.training.measures.scores import Bools


def compare(
    name: str,
    training: Sequence[CaseFeatures],
    test: Sequence[CaseFeatures],
    labels: tuple[str, ...],
    finding: Bools,
    *,
    draws: int,
    seed: int,
) -> ComparedFigures:
    """A probe on one encoder's features: its strength by patient-grouped cross-validation, calibrated on the scores of
    left-out cases, measured on `test`.

    Args:
        name: As the table calls the features.
        training: Cases to fit on.
        test: Cases of other patients.
        labels: C classes.
        finding: (C,) which are findings.
        draws: Bootstrap samples.
        seed: Of folds and bootstrap.

    Raises:
        DatasetError: there are too few patients to cross-validate.
    """
    probe = fit_probe(training, task="compared", labels=labels, finding=finding, backbone_id=name, seed=seed)
    classes = np.array([labels.index(case.label) for case in training], np.int64)
    head = calibrated(probe.head, calibrate_scores(probe.left_out, classes, finding), finding)
    metrics = judge_cases(head, test, finding).measure(0.0, draws=draws, seed=seed)
    return _figures(name, training[0].joined.shape[1], metrics)


def compare_trivial(
    training: Sequence[CaseFeatures],
    test: Sequence[CaseFeatures],
    labels: tuple[str, ...],
    finding: Bools,
    *,
    draws: int,
    seed: int,
) -> list[ComparedFigures]:
    """Features that hardly see a lesion's shape: they should stay near chance."""
    found = trivial_baselines(training, test, labels, finding, seed)
    seen, unseen = ([_with_gradients(case) for case in cases] for cases in (training, test))
    return [
        *(_figures(name, None, metrics) for name, metrics in found.items()),
        compare("HOG, 32 x 32", seen, unseen, labels, finding, draws=draws, seed=seed),
    ]


def _with_gradients(case: CaseFeatures) -> CaseFeatures:
    """Histograms of oriented gradients (Dalal & Triggs 2005) of the thumbnails instead of the backbone's features."""
    rows: Floats32 = np.stack(
        [hog(image, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for image in case.thumbnails.mean(axis=-1)]
    ).astype(np.float32)
    return replace(case, cls=rows, joined=rows)


def _figures(name: str, dim: int | None, metrics: Metrics) -> ComparedFigures:
    return ComparedFigures(
        features=name,
        dim=dim,
        accuracy=metrics.accuracy,
        balanced_accuracy=metrics.balanced_accuracy,
        auroc_macro=metrics.auroc_macro,
        ece=metrics.ece,
    )
