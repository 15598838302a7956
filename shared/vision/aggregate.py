"""Frame logits to one study score.

The rule: a frame's *finding margin* is the log-sum-exp of its finding logits minus that of its other
logits. The quarter of the frames (rounded up) with the largest margins is kept, and the study's logits
are the mean of their logits weighted by softmax(margin). Frames alike weigh alike, as in a plain mean;
a lesion that shows in one slice of two hundred outweighs the healthy ones: with a margin of m, and none of the K
kept frames' others above h, its weight is at least 1 / (1 + (K - 1) exp(h - m)).

The intervals tell how much the score rests on single frames: the study is scored again with its frames drawn anew
with replacement (Efron's bootstrap). A lesion in one slice of many gives a wide one, since without that slice there
is no finding. They say nothing of other patients: that is in the model card.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

KEPT_FRACTION: Final = 0.25
RESAMPLES: Final = 200
INTERVAL: Final = (5.0, 95.0)
"""Percentiles of the interval's ends."""


@dataclass(frozen=True, slots=True)
class StudyScore:
    """A study's scores for one task.

    Attributes:
        probabilities: (C,) calibrated; they sum to 1.
        logits: (C,) uncalibrated study logits.
        evidence: Indices of the kept frames, those most probably of the top class first.
    """

    probabilities: NDArray[np.float64]
    logits: NDArray[np.float64]
    evidence: tuple[int, ...]


def aggregate(frame_logits: NDArray[np.floating], finding: NDArray[np.bool_], temperature: float) -> StudyScore:
    """Score a study by its frames.

    Args:
        frame_logits: (N, C) uncalibrated logits, N at least 1.
        finding: (C,) which classes are findings.
        temperature: Divides the study's logits before the softmax; it does not change the weights.

    Raises:
        ValueError: there is no frame.
    """
    logits = np.asarray(frame_logits, np.float64)
    if len(logits) == 0:
        raise ValueError("a study without frames has no score")
    study, kept = _study_logits(logits, finding)
    of_top_class = softmax(logits[kept] / temperature)[:, int(np.argmax(study))]
    evidence = kept[np.argsort(-of_top_class, kind="stable")]
    return StudyScore(softmax(study / temperature), study, tuple(int(index) for index in evidence))


def intervals(
    frame_logits: NDArray[np.floating], finding: NDArray[np.bool_], temperature: float
) -> NDArray[np.float64] | None:
    """(C, 2) bootstrap intervals over frames of the study's probabilities; they contain the study's own.

    A pure function of its arguments, in whatever order the frames come. None with fewer than two frames.
    """
    logits = np.asarray(frame_logits, np.float64)
    if len(logits) < 2:
        return None
    ordered = logits[np.lexsort(logits.T)]
    drawn = np.random.default_rng(len(logits)).integers(0, len(logits), (RESAMPLES, len(logits)))
    resampled = np.stack([softmax(_study_logits(ordered[draw], finding)[0] / temperature) for draw in drawn])
    own = softmax(_study_logits(logits, finding)[0] / temperature)
    low, high = np.percentile(resampled, INTERVAL, axis=0)
    return np.stack([np.minimum(low, own), np.maximum(high, own)], axis=1)


def finding_margins(logits: NDArray[np.float64], finding: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N,) finding margins of (N, C) logits; with classes of one kind only, the top class's margin."""
    if finding.all() or not finding.any():
        top: NDArray[np.float64] = logits.max(axis=1) - _log_sum_exp(logits)
        return top
    return _log_sum_exp(logits[:, finding]) - _log_sum_exp(logits[:, ~finding])


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return normalised


def _study_logits(
    logits: NDArray[np.float64], finding: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(C,) study logits, and the indices of the kept frames."""
    margins = finding_margins(logits, finding)
    kept = np.argsort(-margins, kind="stable")[: math.ceil(KEPT_FRACTION * len(logits))]
    study: NDArray[np.float64] = softmax(margins[kept]) @ logits[kept]
    return study, kept


def _log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logits.max(axis=1)
    result: NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return result
