"""Calibration of study scores, and the operating point: from which confidence on a task answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from shared.vision.heads import LinearHead

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Aim = Literal["accuracy", "sensitivity", "specificity"]

_BOUNDS: Final = ((-50.0, 50.0), (float(np.log(0.002)), float(np.log(500.0))))  # offset, logarithm of temperature
_NEAR: Final = 0.02  # of a range: a search that creeps towards a bound stops short of it
_LEAST_LIMIT: Final = 0.5  # an answer that is more likely wrong than right is none
_LEAST_ANSWERED: Final = 10  # fewer answers, or fewer than a quarter, say nothing about what is aimed at


@dataclass(frozen=True, slots=True)
class Calibration:
    """What makes scores likely.

    Attributes:
        offset: Added to the logits of the classes that are no findings.
        temperature: Divides all logits.
        loss: Mean negative log-likelihood that they reach.
        at_bound: Whether the fit ended at a limit of what it may choose, so that it found no best.
        has_converged: Whether the fit settled.
    """

    offset: float
    temperature: float
    loss: float
    at_bound: bool = False
    has_converged: bool = True


@dataclass(frozen=True, slots=True)
class Operating:
    """A chosen limit.

    Attributes:
        abstain_below: Studies less sure than this are left to a person.
        is_reached: Whether the aim is reached there; else half of the studies are left to a person.
    """

    abstain_below: float
    is_reached: bool


def calibrate_scores(logits: Floats, classes: Ints, finding: Bools) -> Calibration:
    """The offset and the temperature that make study logits (N, C) most likely.

    A study is judged by its most suspicious frames, so a probe that is fitted on single frames calls too many healthy
    studies ill. One offset on the logits of the non-findings mends that. Temperature: Guo et al. 2017.

    Fitted to Platt's targets (1999): of n cases of a class the true one counts (n + 1) / (n + 2), not 1. Else scores
    that separate a few cases without a fault would make answers certain that are not. A fit that comes no closer to
    these targets than the scores as they are is dropped: offset 0, temperature 1.
    """
    has_offset = bool(finding.any() and not finding.all())

    rows, count = np.arange(len(classes)), logits.shape[1]
    doubt = 1 / (np.bincount(classes, minlength=count)[classes] + 2)
    targets = np.repeat(doubt[:, None] / (count - 1), count, axis=1)
    targets[rows, classes] = 1 - doubt

    def logarithms(parameters: Floats) -> Floats:
        shifted = logits + np.where(finding, 0.0, parameters[0] if has_offset else 0.0)
        found: Floats = log_softmax(shifted / np.exp(parameters[1]), axis=1)
        return found

    def loss(parameters: Floats) -> float:
        return -float((targets * logarithms(parameters)).sum(axis=1).mean())

    plain = np.zeros(2)
    best = minimize(loss, plain, method="Nelder-Mead", bounds=_BOUNDS)
    chosen = best.x if np.isfinite(best.fun) and best.fun < loss(plain) else plain
    fitted = slice(None if has_offset else 1, None)
    low, high = np.array(_BOUNDS).T
    room = np.minimum(chosen - low, high - chosen) / (high - low)
    return Calibration(
        offset=float(chosen[0]) if has_offset else 0.0,
        temperature=float(np.exp(chosen[1])),
        loss=-float(logarithms(chosen)[rows, classes].mean()),
        at_bound=bool((room[fitted] < _NEAR).any()),
        has_converged=bool(best.success),
    )


def calibrated(head: LinearHead, calibration: Calibration, finding: Bools) -> LinearHead:
    """`head` with an offset and a temperature.

    The offset shifts every frame's finding margin alike, so that the same frames are kept with the same weights.
    """
    bias = head.bias + np.where(finding, 0.0, calibration.offset)
    return replace(head, bias=bias.astype(np.float32), temperature=calibration.temperature)


def operating_point(probabilities: Floats, classes: Ints, finding: Bools, aim: Aim, target: float) -> Operating:
    """The least confidence, at least .5, from which on the answered studies reach what is aimed at.

    Args:
        probabilities: (N, C) calibrated.
        classes: (N,) true classes.
        finding: (C,) which classes are findings.
        aim: Accuracy: answers that are right. Sensitivity: ill studies answered with a finding, of those answered.
            Specificity: healthy ones answered with none, of those answered.
        target: To reach, in [0, 1].
    """
    top, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    is_ill = finding[classes]
    right = predicted == classes if aim == "accuracy" else finding[predicted] == is_ill
    counted = np.ones(len(classes), np.bool_) if aim == "accuracy" else is_ill == (aim == "sensitivity")
    least = max(min(_LEAST_ANSWERED, int(counted.sum())), int(counted.sum()) // 4)
    for limit in np.arange(_LEAST_LIMIT, 0.99, 0.01):
        answered = counted & (top >= limit)
        if answered.sum() < max(least, 1):
            break
        if right[answered].mean() >= target:
            return Operating(round(float(limit), 2), True)
    return Operating(round(max(_LEAST_LIMIT, float(np.median(top))), 2), False)
