"""The points of a study's regions: cells of its evidence frames, and of others chosen evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import numpy as np

from services.embedder.cells import CellGrid
from services.embedder.encode import EncodedStudy
from shared.events import StudyDiagnosed
from shared.ids import region_id
from shared.vector_index.port import Embedding, FramePoint, VectorIndex
from shared.vision.frame_policy import evenly

_LEAST_NORM: Final = 1e-6
"""Of a mean: below it the tokens cancel each other and have no direction. The query service's limit."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Where regions go, and which.

    Attributes:
        index: Their collection.
        grid: How a frame is cut.
        frames_max: Frames of a study that have regions.
    """

    index: VectorIndex
    grid: CellGrid
    frames_max: int


def region_points(
    frames: Sequence[FramePoint], encoded: EncodedStudy, events: Sequence[StudyDiagnosed], regions: Regions
) -> list[FramePoint]:
    """One point a cell that shows something; the payload is its frame's, with the cell's box.

    Args:
        frames: The points of the study's frames, in the order of `encoded.frames`.
        encoded: The study.
        events: Its diagnoses, whose evidence goes first.
        regions: The grid and the number of frames.
    """
    boxes = regions.grid.boxes()
    found = []
    for row in _chosen(frames, encoded, events, regions.frames_max):
        frame = frames[row]
        for number, mean in encoded.cells[row].items():
            norm = float(np.linalg.norm(mean.astype(np.float64)))
            if norm < _LEAST_NORM:
                continue
            unit: Embedding = np.divide(mean, norm, dtype=np.float32)
            payload = frame.payload.model_copy(update={"region": boxes[number]})
            found.append(FramePoint(region_id(frame.id, number), unit, payload))
    return found


def _chosen(
    frames: Sequence[FramePoint], encoded: EncodedStudy, events: Sequence[StudyDiagnosed], most: int
) -> list[int]:
    """Rows of frames with cells: each diagnosis' evidence in turn, the strongest first; then others, evenly."""
    rows = {frame.id: row for row, frame in enumerate(frames) if encoded.cells[row]}
    in_turn = (entry for turn in zip_longest(*(event.evidence for event in events)) for entry in turn if entry)
    evidence = list(dict.fromkeys(rows[entry.point_id] for entry in in_turn if entry.point_id in rows))[:most]
    others = [row for row in rows.values() if row not in evidence]
    return evidence + [others[at] for at in evenly(len(others), most - len(evidence))]
