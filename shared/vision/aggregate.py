"""Frame logits to one study score.

The rule: a frame's *finding margin* is the log-sum-exp of its finding logits minus that of its other
logits. The quarter of the frames (rounded up) with the largest margins is kept, and the study's logits
are the mean of their logits weighted by softmax(margin). Frames alike weigh alike, as in a plain mean;
a lesion that shows in one slice of two hundred outweighs the healthy ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

KEPT_FRACTION: Final = 0.25


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
    margins = finding_margins(logits, finding)
    kept = np.argsort(-margins, kind="stable")[: math.ceil(KEPT_FRACTION * len(logits))]
    study = softmax(margins[kept]) @ logits[kept]
    of_top_class = softmax(logits[kept] / temperature)[:, int(np.argmax(study))]
    evidence = kept[np.argsort(-of_top_class, kind="stable")]
    return StudyScore(softmax(study / temperature), study, tuple(int(index) for index in evidence))


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


def _log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logits.max(axis=1)
    result: NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return result
