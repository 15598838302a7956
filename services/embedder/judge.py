"""A task's decision on a study's frames.

mixed patients                          abstained
no frame that the task takes            abstained
median frame distance too large         out-of-distribution
top class less probable than the limit  abstained
otherwise                               finding or no-finding: the top class
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.embedder.encode import EncodedFrame
from services.embedder.survey import evenly
from shared.events import ClassScore, Decision
from shared.vision.aggregate import aggregate
from shared.vision.tasks import Task


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a task says of a study.

    Attributes:
        evidence: (index of the frame, its probability of the study's top class), the strongest first.
    """

    decision: Decision
    reason: str
    label: str | None = None
    confidence: float | None = None
    classes: tuple[ClassScore, ...] = ()
    evidence: tuple[tuple[int, float], ...] = ()


def judge(
    task: Task, frames: Sequence[EncodedFrame], joined: NDArray[np.float32], *, mixed_patients: bool, max_evidence: int
) -> Verdict:
    """Judge a study by task.

    Args:
        task: The task.
        frames: The study's encoded frames.
        joined: (N, 4D) their joined features.
        mixed_patients: Whether the study's objects name different patients.
        max_evidence: Most evidence frames to name.
    """
    if mixed_patients:
        return Verdict(Decision.ABSTAINED, "objects under this study UID name different patients; nothing was judged")
    used = frames_of(task, frames)
    if not used:
        return Verdict(Decision.ABSTAINED, f"no frame that {task.name} takes could be used")
    features = joined[used]
    logits = task.head.logits(features)
    score = aggregate(logits, task.finding, task.head.temperature)
    top = int(np.argmax(score.probabilities))
    label, confidence = task.head.labels[top], _probability(score.probabilities[top])
    classes = tuple(
        ClassScore(
            label=entry.label, probability=_probability(probability), is_finding=entry.is_finding, code=entry.code
        )
        for entry, probability in zip(task.definition.classes, score.probabilities, strict=True)
    )
    of_top_class = task.head.probabilities(logits)[:, top]
    evidence = tuple((used[index], _probability(of_top_class[index])) for index in score.evidence[:max_evidence])
    scores = f"{label} is the most probable class with {confidence:.2f} on {len(used)} frames"
    limit = task.definition.ood_distance_above
    distances = task.head.distances(features)
    if limit is not None and distances is not None and (distance := float(np.median(distances))) > limit:
        reason = f"unlike the training images: median distance {distance:.2f}, more than {limit:.2f}; {scores}"
        return Verdict(Decision.OUT_OF_DISTRIBUTION, reason, classes=classes, evidence=evidence)
    if confidence < task.definition.abstain_below:
        reason = f"not certain enough: {scores}, below the limit of {task.definition.abstain_below:.2f}"
        return Verdict(Decision.ABSTAINED, reason, classes=classes, evidence=evidence)
    decision = Decision.FINDING if task.finding[top] else Decision.NO_FINDING
    return Verdict(decision, scores, label, confidence, classes, evidence)


def frames_of(task: Task, frames: Sequence[EncodedFrame]) -> list[int]:
    """Which frames the task judges: those that it takes, evenly up to its own limit."""
    excluded = set(task.definition.excluded_image_types)
    taken = [
        index
        for index, frame in enumerate(frames)
        if task.takes(frame.image.series, frame.image.instance) and not excluded & set(frame.image.header.image_type)
    ]
    return [taken[at] for at in evenly(len(taken), task.definition.max_frames)]


def _probability(value: float) -> float:
    return min(1.0, max(0.0, float(value)))
