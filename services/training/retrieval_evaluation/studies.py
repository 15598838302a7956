"""Studies as the index would hold them: the frames' vectors in one space, and what a search starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.training.dataset.cases import DatasetError
from services.training.features.case_features import CaseFeatures
from services.training.features.frame_views import Floats32
from services.training.fit.task_space import unit
from shared.vision.aggregate import StudyScore, aggregate
from shared.vision.familiarity import study_distance
from shared.vision.retrieval_report import VISUAL
from shared.vision.tasks import Task

Ints = NDArray[np.int64]
Texts = NDArray[np.str_]

EVIDENCE_FRAMES_MAX: Final = 8
"""Of a study that a search starts with: as many as the embedder's settings have it name by default."""
NO_LABEL: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Studies:
    """N studies of M frames, those of one study side by side, in order.

    Attributes:
        vectors: By space, (M, K) of L2 norm 1.
        starts: By space, (N, K): the normalised mean of each study's evidence frames.
        study: (M,) which study a frame is of, ascending.
        strongest: (N,) the frame that stands first in the evidence.
        classes: (N,) true classes.
        frame_classes: (M,) what each frame shows; the study's class where that is not known.
        labels: (N,) the class that the head names; `NO_LABEL` where it abstains or the study is unlike the training's.
        patients: (N,).
        sources: (N,), "" where it is not known.
    """

    vectors: dict[str, Floats32]
    starts: dict[str, Floats32]
    study: Ints
    strongest: Ints
    classes: Ints
    frame_classes: Ints
    labels: Ints
    patients: Texts
    sources: Texts

    def __len__(self) -> int:
        return len(self.classes)

    def only(self, chosen: NDArray[np.bool_]) -> Studies:
        """Some of the studies, (N,) of them true."""
        frames = chosen[self.study]
        renumbered, moved = np.cumsum(chosen) - 1, np.cumsum(frames) - 1
        return Studies(
            {space: rows[frames] for space, rows in self.vectors.items()},
            {space: rows[chosen] for space, rows in self.starts.items()},
            renumbered[self.study[frames]],
            moved[self.strongest[chosen]],
            self.classes[chosen],
            self.frame_classes[frames],
            self.labels[chosen],
            self.patients[chosen],
            self.sources[chosen],
        )


def studies_of(cases: Sequence[CaseFeatures], task: Task) -> Studies:
    """Encoded cases as studies.

    Args:
        cases: Encoded with the head's lens.
        task: Whose head has a projection.

    Raises:
        DatasetError: the head has no space of its own, or a study's evidence has no direction.
    """
    head = task.head
    if head.projection is None:
        raise DatasetError(f"the head {head.id} has no space of its own")
    counts = [len(case.cls) for case in cases]
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    scores = [aggregate(head.logits(case.joined), task.finding, head.temperature) for case in cases]
    evidence = [np.array(score.evidence[:EVIDENCE_FRAMES_MAX]) for score in scores]
    cls = np.concatenate([case.cls for case in cases])
    vectors = {VISUAL: unit(cls), task.name: head.projection(cls)}
    shown = [case.frame_labels or (case.label,) * count for case, count in zip(cases, counts, strict=True)]
    return Studies(
        vectors=vectors,
        starts={
            space: np.stack([_mean(rows[at + frames]) for at, frames in zip(first, evidence, strict=True)])
            for space, rows in vectors.items()
        },
        study=np.repeat(np.arange(len(cases)), counts),
        strongest=first + np.array([frames[0] for frames in evidence], np.int64),
        classes=np.array([head.labels.index(case.label) for case in cases], np.int64),
        frame_classes=np.array([head.labels.index(label) for labels in shown for label in labels], np.int64),
        labels=np.array([_label(case, score, task) for case, score in zip(cases, scores, strict=True)], np.int64),
        patients=np.array([case.case.patient for case in cases]),
        sources=np.array([case.case.source for case in cases]),
    )


def _label(case: CaseFeatures, score: StudyScore, task: Task) -> int:
    """What the embedder would write into the index."""
    limit, distances = task.definition.ood_distance_above, task.head.distances(case.joined)
    is_strange = limit is not None and distances is not None and study_distance(distances) > limit
    is_unsure = score.probabilities.max() < task.definition.abstain_below
    return NO_LABEL if is_strange or is_unsure else int(score.probabilities.argmax())


def _mean(vectors: Floats32) -> Floats32:
    mean = np.mean(vectors.astype(np.float64), axis=0)
    norm = float(np.linalg.norm(mean))
    if norm < 1e-6:
        raise DatasetError("the evidence frames of a study cancel each other: it has no direction to search in")
    direction: Floats32 = (mean / norm).astype(np.float32)
    return direction
