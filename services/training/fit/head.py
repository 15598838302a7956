"""From encoded parts to a calibrated head: the one recipe of `similis train` and of every fold that checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.training.dataset.cases import SplitName
from services.training.features.case_features import CaseFeatures
from services.training.fit.calibration import Calibration, calibrate_scores, calibrated
from services.training.fit.lens import can_fit_lens, fit_lens_of
from services.training.fit.linear_probe import (
    Bools,
    Floats,
    Grouping,
    Ints,
    Probe,
    case_classes,
    case_logits,
    fit_probe,
)
from shared.vision.heads import LinearHead
from shared.vision.patch_lens import PatchLens

Parts = dict[SplitName, list[CaseFeatures]]


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedHead:
    """A head and what it came of.

    Attributes:
        head: Calibrated; it has no projection and no familiarity yet.
        parts: The given parts as the probe reads them: through its lens, if it has one, and without patches.
        probe: Before calibration.
        calibration: What was fitted to the scores.
        scores: (N, C) uncalibrated study logits that the calibration was fitted on.
        classes: (N,) their true classes.
    """

    head: LinearHead
    parts: Parts
    probe: Probe
    calibration: Calibration
    scores: Floats
    classes: Ints


def fit_head(
    parts: Mapping[SplitName, Sequence[CaseFeatures]],
    *,
    task: str,
    labels: tuple[str, ...],
    finding: NDArray[np.bool_],
    backbone_id: str,
    grouping: Grouping = "patient",
    seed: int = 0,
    fitted_frames: int | None = None,
    cross_fitted: bool = True,
) -> CalibratedHead:
    """Fit on `parts["training"]`, calibrate on `parts["calibration"]` too; other parts are only read.

    Args:
        parts: Encoded cases by split, with patches and coverage where a patch lens may be fitted.
        task: The task's name.
        labels: C labels.
        finding: (C,) which classes are findings.
        backbone_id: Of the backbone that made the features.
        grouping: What cross-validation leaves out together.
        seed: Of folds and of the lens's plain patches.
        fitted_frames: Most frames of a case that the probe is fitted on, see `linear_probe.stack_frames`.
        cross_fitted: Calibrate on the left-out scores of training too, not on the calibration split alone.

    Raises:
        DatasetError: there are too few groups to cross-validate.
    """
    read, probe = _likeliest(
        {name: list(cases) for name, cases in parts.items()},
        task,
        labels,
        finding,
        backbone_id,
        grouping,
        seed,
        fitted_frames,
    )
    scores = case_logits(probe.head, read["calibration"], finding)
    classes = case_classes(read["calibration"], labels)
    if cross_fitted:
        scores = np.concatenate([probe.left_out, scores])
        classes = np.concatenate([case_classes(read["training"], labels), classes])
    fitted = calibrate_scores(scores, classes, finding)
    return CalibratedHead(calibrated(probe.head, fitted, finding), read, probe, fitted, scores, classes)


def _likeliest(
    parts: Parts,
    task: str,
    labels: tuple[str, ...],
    finding: Bools,
    backbone_id: str,
    grouping: Grouping,
    seed: int,
    fitted_frames: int | None,
) -> tuple[Parts, Probe]:
    """The likeliest probe: on the joined features, or where masks are known on a patch lens, alone or beside them.

    Returns:
        The parts as the probe reads them, and the probe.
    """
    lens: PatchLens | None = None
    if can_fit_lens(parts["training"], labels, finding, grouping, seed):
        found = fit_lens_of({name: parts[name] for name in parts}, labels, finding, grouping, seed)
        lens, parts = found.lens, {name: found.parts[name] for name in parts}
    probes = [
        fit_probe(
            parts["training"],
            task=task,
            labels=labels,
            finding=finding,
            backbone_id=backbone_id,
            grouping=grouping,
            seed=seed,
            fitted_frames=fitted_frames,
            lens=lens,
            lens_alone=alone,
        )
        for alone in ((True, False) if lens else (False,))
    ]
    return parts, min(probes, key=lambda probe: probe.loss)
