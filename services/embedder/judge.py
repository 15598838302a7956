"""A task's decision on a study's frames.

mixed patients                          abstained
no frame that the task takes            abstained
median frame distance too large         out-of-distribution
top class less probable than the limit  abstained
otherwise                               finding or no-finding: the top class

How frames make a study's score is told in `shared.vision.aggregate`; a series' score is the same rule on its frames.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.embedder.encode import EncodedFrame
from services.embedder.select_frames import FrameKey
from shared.events import ClassScore, Decision, SeriesScore, Unfamiliarity
from shared.vision.aggregate import StudyScore, aggregate, intervals
from shared.vision.familiarity import explain, study_distance
from shared.vision.tasks import Task


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a task says of a study.

    Attributes:
        evidence: (index of the frame, its probability of the study's top class), the strongest first.
        series: Each judged series by itself.
        unfamiliarity: The distance from the training images; None if the head cannot tell.
    """

    decision: Decision
    reason: str
    label: str | None = None
    confidence: float | None = None
    classes: tuple[ClassScore, ...] = ()
    evidence: tuple[tuple[int, float], ...] = ()
    series: tuple[SeriesScore, ...] = ()
    unfamiliarity: Unfamiliarity | None = None


def judge(
    task: Task,
    frames: Sequence[EncodedFrame],
    read: NDArray[np.float32] | None,
    *,
    judged: Collection[FrameKey],
    mixed_patients: bool,
    max_evidence: int,
) -> Verdict:
    """Judge a study by task.

    Args:
        task: The task.
        frames: What the rows of `read` come from.
        read: (N, F) what the task's head reads of them, see `LinearHead.read`; None without frames.
        judged: The frames that are the task's to judge; those that could not be decoded are missing in `frames`.
        mixed_patients: Whether the study names several patients.
        max_evidence: Evidence frames named at most.
    """
    if mixed_patients:
        return Verdict(Decision.ABSTAINED, "objects of different patients share this study UID; not judged")
    used = [
        index for index, frame in enumerate(frames) if (frame.image.instance.sop_instance_uid, frame.number) in judged
    ]
    if not used or read is None:
        return Verdict(Decision.ABSTAINED, f"no frame that {task.name} takes could be used")
    features = read[used]
    logits = task.head.logits(features)
    score = aggregate(logits, task.finding, task.head.temperature)
    top = int(np.argmax(score.probabilities))
    of_top_class = task.head.probabilities(logits)[:, top]
    verdict = Verdict(
        Decision.FINDING if task.finding[top] else Decision.NO_FINDING,
        "",
        classes=_classes(task, logits, score),
        evidence=tuple((used[index], _probability(of_top_class[index])) for index in score.evidence[:max_evidence]),
        series=_by_series(task, [frames[index] for index in used], logits),
        unfamiliarity=_unfamiliarity(task, features),
    )
    return _decided(task, verdict, top, len(used))


def _decided(task: Task, verdict: Verdict, top: int, frames: int) -> Verdict:
    label, confidence = verdict.classes[top].label, verdict.classes[top].probability
    scores = f"{label} is the most probable class with {confidence:.2f} on {frames} frames"
    far = verdict.unfamiliarity
    if far is not None and far.limit is not None and far.distance > far.limit:
        reason = f"{explain(far.distance, far.limit)}; {scores}"
        return replace(verdict, decision=Decision.OUT_OF_DISTRIBUTION, reason=reason)
    if confidence < task.definition.abstain_below:
        reason = f"not certain enough: {scores}, below the limit of {task.definition.abstain_below:.2f}"
        return replace(verdict, decision=Decision.ABSTAINED, reason=reason)
    return replace(verdict, reason=scores, label=label, confidence=confidence)


def _classes(task: Task, logits: NDArray[np.float64], score: StudyScore) -> tuple[ClassScore, ...]:
    ends = intervals(logits, task.finding, task.head.temperature)
    return tuple(
        ClassScore(
            label=entry.label,
            probability=_probability(probability),
            is_finding=entry.is_finding,
            code=entry.code,
            low=None if ends is None else _probability(ends[index, 0]),
            high=None if ends is None else _probability(ends[index, 1]),
        )
        for index, (entry, probability) in enumerate(zip(task.definition.classes, score.probabilities, strict=True))
    )


def _by_series(task: Task, frames: Sequence[EncodedFrame], logits: NDArray[np.float64]) -> tuple[SeriesScore, ...]:
    rows: dict[str, list[int]] = {}
    for row, frame in enumerate(frames):
        rows.setdefault(frame.image.series.series_instance_uid, []).append(row)
    scores = []
    for uid, of_series in rows.items():
        found = aggregate(logits[of_series], task.finding, task.head.temperature).probabilities
        top = int(np.argmax(found))
        labels = task.head.labels
        scores.append(
            SeriesScore(
                series_instance_uid=uid,
                frames=len(of_series),
                label=labels[top],
                probability=_probability(found[top]),
                probabilities={label: _probability(value) for label, value in zip(labels, found, strict=True)},
            )
        )
    return tuple(scores)


def _unfamiliarity(task: Task, features: NDArray[np.float32]) -> Unfamiliarity | None:
    distances = task.head.distances(features)
    if distances is None or task.head.familiarity is None:
        return None
    return Unfamiliarity(
        kind=task.head.familiarity.kind,
        distance=study_distance(distances),
        limit=task.definition.ood_distance_above,
    )


def _probability(value: float) -> float:
    return min(1.0, max(0.0, float(value)))
