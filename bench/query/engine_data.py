"""Synthetic frames that are clustered as embeddings of studies are, and the exact answers by numpy.

A lesion-like centre each for a few hundred groups; a study lies near one of them, its frames near the study:

    study = centre + 0.6 noise,  frame = study + 0.4 noise,  each noise of the centre's expected length; then normalised

Every study has 20 frames and a patient three studies; two modalities of three pass the filter. Rows are in the order
of their studies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from shared.vector_index.port import AnyOf, Filter, FramePayload, FramePoint

TOP: Final = 10
_FRAMES: Final = 20
_STUDIES: Final = 3
_CENTRES: Final = 300
_MODALITIES: Final = ("MR", "CT", "CR")


@dataclass(frozen=True, slots=True)
class Frames:
    """The vectors, (N, D) float32 of norm 1, and queries like them, (Q, D), each of a patient of its own rows."""

    rows: NDArray[np.float32]
    queries: NDArray[np.float32]
    query_studies: NDArray[np.int64]

    def points(self, start: int, stop: int) -> list[FramePoint]:
        """Points number `start` up to `stop`; a point's id is its row's number plus one."""
        return [self._point(number) for number in range(start, min(stop, len(self.rows)))]

    def where(self, query: int) -> Filter:
        """Two modalities, one model, the query's patient excluded."""
        patient = f"patient-{self.query_studies[query] // _STUDIES}"
        return Filter(
            must=(AnyOf("modality", _MODALITIES[:2]), AnyOf("task", ("brain-mr",))),
            must_not=(AnyOf("patient_pseudonym", (patient,)),),
        )

    def passing(self, query: int) -> NDArray[np.bool_]:
        """Which rows meet `where(query)`, (N,)."""
        studies = np.arange(len(self.rows)) // _FRAMES
        passing: NDArray[np.bool_] = (studies % 3 < 2) & (studies // _STUDIES != self.query_studies[query] // _STUDIES)
        return passing

    def exact(self, query: int, passing: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Numbers of the most similar rows, best first: one product over all, the others struck out."""
        scores = self._scores(query, passing)
        best = np.argpartition(-scores, TOP)[:TOP]
        return best[np.argsort(-scores[best])]

    def exact_studies(self, query: int, passing: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Numbers of the most similar studies, best first, each by its best row."""
        starts = np.arange(0, len(self.rows), _FRAMES)
        scores = np.maximum.reduceat(self._scores(query, passing), starts)
        best = np.argpartition(-scores, TOP)[:TOP]
        return best[np.argsort(-scores[best])]

    def _scores(self, query: int, passing: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self.rows @ self.queries[query]
        if passing is not None:
            scores[~passing] = -np.inf
        return scores

    def _point(self, number: int) -> FramePoint:
        study = number // _FRAMES
        payload = FramePayload(
            study_instance_uid=f"1.2.{study}",
            series_instance_uid=f"1.2.{study}.1",
            sop_instance_uid=f"1.2.{study}.1.{number}",
            frame_number=1,
            revision=1,
            modality=_MODALITIES[study % 3],
            body_part="BRAIN",
            patient_pseudonym=f"patient-{study // _STUDIES}",
            study_date=20200101 + study % 28,
            backbone_id="benchmark",
            task="brain-mr",
            decision="accepted",
            label=f"label-{study % 7}",
        )
        return FramePoint(UUID(int=number + 1), self.rows[number], payload)


def frames(count: int, dim: int, *, queries: int, seed: int = 1) -> Frames:
    """`count` rows of length `dim`, and `queries` new frames of studies that are there."""
    numbers = np.random.default_rng(seed)
    studies = -(-count // _FRAMES)
    centres = numbers.standard_normal((_CENTRES, dim), dtype=np.float32)
    middles = centres[numbers.integers(_CENTRES, size=studies)]
    middles += 0.6 * numbers.standard_normal(middles.shape, dtype=np.float32)
    rows = np.repeat(middles, _FRAMES, axis=0)[:count]
    rows += 0.4 * numbers.standard_normal(rows.shape, dtype=np.float32)
    asked = numbers.integers(studies, size=queries)
    found = middles[asked] + 0.4 * numbers.standard_normal((queries, dim), dtype=np.float32)
    return Frames(_unit(rows), _unit(found), asked)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
