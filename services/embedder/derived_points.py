"""What is indexed beside a study's frames: series and study as means, frames in each task's own space, regions.

Each has a collection of its own (`shared.vector_index.collection_name`, `space_collection_name`). They are written
before the frames: a study whose frames are there has these too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from services.embedder.encode import EncodedStudy
from services.embedder.points import foremost, holds_revision, points_of, replace_points
from services.embedder.region_points import Regions, region_points
from shared.events import StudyDiagnosed
from shared.ids import mean_id
from shared.manifest import StudyManifest
from shared.vector_index.port import Embedding, FramePoint, VectorIndex
from shared.vision.tasks import Task

_LEAST_NORM: Final = 1e-6
"""Of a mean of unit vectors: below it they cancel each other and have no direction."""


@dataclass(frozen=True, slots=True)
class DerivedIndexes:
    """Where the derived points go.

    Attributes:
        series: Of one mean a series.
        studies: Of one mean a study.
        spaces: By the task's name, for tasks whose head has a space of its own.
        regions: Of cells of frames; None: none are written.
    """

    series: VectorIndex
    studies: VectorIndex
    spaces: Mapping[str, VectorIndex] = field(default_factory=dict)
    regions: Regions | None = None

    def hold_revision_only(self, study_instance_uid: str, revision: int) -> bool:
        """Whether none of the study's derived points is of another revision: a slower worker's may be."""
        indexes = [self.series, self.studies, *self.spaces.values()]
        if self.regions is not None:
            indexes.append(self.regions.index)
        return all(holds_revision(index, study_instance_uid, revision, 0) for index in indexes)

    def replace(
        self,
        manifest: StudyManifest,
        encoded: EncodedStudy,
        events: Sequence[StudyDiagnosed],
        tasks: Sequence[Task],
        *,
        at_once: int,
        on_progress: Callable[[], None],
    ) -> None:
        """Make the study's derived points these; `tasks` are those that take it now. Safe to repeat.

        A task has a place in its space only by a diagnosis of the very head that projects: the points carry both.

        Raises:
            InvalidVectorError: a vector cannot be stored.
            IndexUnavailableError: try again later.
        """
        event = foremost(events)
        frames = points_of(manifest, encoded, event)
        found: list[tuple[VectorIndex, list[FramePoint]]] = [
            (self.series, _means(frames, event, lambda point: point.payload.series_instance_uid)),
            (self.studies, _means(frames, event, lambda point: point.payload.study_instance_uid)),
        ]
        by_head = {judged.head_id: judged for judged in events}
        taking = {task.name: task for task in tasks if task.head.id in by_head}
        for name, index in self.spaces.items():
            task = taking.get(name)
            found.append((index, _projected(manifest, encoded, by_head[task.head.id], task) if task else []))
        if self.regions is not None:
            found.append((self.regions.index, region_points(frames, encoded, events, self.regions)))
        for index, points in found:
            replace_points(index, manifest.study_instance_uid, points, at_once=at_once, on_progress=on_progress)


def _means(frames: Sequence[FramePoint], event: StudyDiagnosed, key: Callable[[FramePoint], str]) -> list[FramePoint]:
    """One point for each value of `key`: the normalised mean, with the payload of the frame that stands for it."""
    groups: dict[str, list[FramePoint]] = {}
    for point in frames:
        groups.setdefault(key(point), []).append(point)
    evidence = [frame.point_id for frame in event.evidence]
    found = []
    for uid, points in groups.items():
        mean = np.stack([point.vector for point in points]).mean(axis=0, dtype=np.float64)
        norm = float(np.linalg.norm(mean))
        if norm < _LEAST_NORM:
            continue
        by_id = {point.id: point for point in points}
        standing = next((by_id[name] for name in evidence if name in by_id), points[len(points) // 2])
        unit: Embedding = np.divide(mean, norm).astype(np.float32)
        found.append(FramePoint(mean_id(event.backbone_id, uid), unit, standing.payload))
    return found


def _projected(manifest: StudyManifest, encoded: EncodedStudy, event: StudyDiagnosed, task: Task) -> list[FramePoint]:
    """The frames that the task takes, in its own space, with its own diagnosis."""
    rows = [row for row, frame in enumerate(encoded.frames) if task.takes(frame.image.series, frame.image.instance)]
    if not rows:
        return []
    vectors = task.head.project(encoded.features.cls[rows])
    if vectors is None:
        return []
    points = points_of(manifest, encoded, event)
    return [replace(points[row], vector=vector.astype(np.float32)) for row, vector in zip(rows, vectors, strict=True)]
