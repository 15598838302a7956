"""What a head's answers are worth had it been calibrated on other cases: of sources that its probe knew, or did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from services.training.evaluation.report import ReportModel
from services.training.fit.calibration import calibrate_scores, calibrated
from services.training.fit.head import CalibratedHead
from services.training.fit.linear_probe import case_classes, case_logits
from services.training.measures.scores import (
    Bools,
    Floats,
    Ints,
    expected_calibration_error,
    expected_error_if_calibrated,
    negative_log_likelihood,
)

BOTH: Final = "left-out training cases and the calibration split"
LEFT_OUT: Final = "left-out training cases"
APART: Final = "the calibration split"


class CalibratedOn(ReportModel):
    """All left-out cases, each by its fold's head, had that been calibrated on these cases.

    Attributes:
        too_sure: Mean confidence less accuracy; above 0: surer than right.
    """

    cases: str
    ece: float
    ece_if_calibrated: float
    nll: float
    too_sure: float


def calibrated_otherwise(fitted: CalibratedHead, labels: tuple[str, ...], finding: Bools) -> dict[str, Floats]:
    """(N, C) probabilities of the test cases, by the cases that the head is calibrated on.

    Scores of training cases are those of the cross-validation's probes: of sources that these had not seen, where
    folds leave out sources.
    """
    parts, probe = fitted.parts, fitted.probe
    left_out = probe.left_out, case_classes(parts["training"], labels)
    apart = case_logits(probe.head, parts["calibration"], finding), case_classes(parts["calibration"], labels)
    both = np.concatenate([left_out[0], apart[0]]), np.concatenate([left_out[1], apart[1]])
    found = {}
    for name, (scores, classes) in {BOTH: both, LEFT_OUT: left_out, APART: apart}.items():
        head = calibrated(probe.head, calibrate_scores(scores, classes, finding), finding)
        found[name] = head.probabilities(case_logits(head, parts["test"], finding))
    return found


def compare_calibrations(folds: Sequence[Mapping[str, Floats]], classes: Ints, seed: int) -> tuple[CalibratedOn, ...]:
    """Figures of what `calibrated_otherwise` gave for each fold, on the cases of all folds (N,) together."""
    figures = []
    for name in (BOTH, LEFT_OUT, APART):
        probabilities = np.concatenate([fold[name] for fold in folds])
        top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
        figures.append(
            CalibratedOn(
                cases=name,
                ece=round(expected_calibration_error(top, right), 4),
                ece_if_calibrated=round(expected_error_if_calibrated(top, seed=seed), 4),
                nll=round(negative_log_likelihood(probabilities, classes), 4),
                too_sure=round(float(top.mean() - right.mean()), 4),
            )
        )
    return tuple(figures)
