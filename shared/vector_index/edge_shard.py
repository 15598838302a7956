"""What the embedded engine is told: its configuration, payload indexes and filters; and what its records mean here."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from shared.errors import ConfigurationError, IndexUnavailableError
from shared.vector_index.edge_folder import sync_folder
from shared.vector_index.edge_settings import IndexSection
from shared.vector_index.port import (
    INTEGER_FIELDS,
    KEYWORD_FIELDS,
    AnyOf,
    Condition,
    Filter,
    FramePayload,
    FramePoint,
    Hit,
)
from shared.vector_index.vectors import cosine, normalized

log = logging.getLogger(__name__)

_INDEXES: Final[dict[str, edge.PayloadSchemaType]] = {
    **dict.fromkeys(KEYWORD_FIELDS, edge.PayloadSchemaType.Keyword),
    **dict.fromkeys(INTEGER_FIELDS, edge.PayloadSchemaType.Integer),
}


def shard_config(dim: int, settings: IndexSection) -> edge.EdgeConfig:
    """Flat up to the threshold; beyond it a graph over int8 vectors in RAM, the originals beside them for rescoring."""
    kilobytes = max(1, settings.flat_below_points * dim * 4 // 1024)
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine),
        hnsw_config=edge.HnswIndexConfig(
            m=settings.graph_links,
            ef_construct=settings.graph_build_width,
            full_scan_threshold=10_000,
            max_indexing_threads=settings.graph_build_threads,
        ),
        quantization_config=edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, quantile=0.99, always_ram=True),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=kilobytes),
        # Left cold, the payloads that a search by study reads cost far more than the search itself.
        payload_memory=edge.Memory.Cached,
        wal_enabled=True,
    )


def search_params(settings: IndexSection) -> edge.SearchParams:
    """How a graph is walked. Without an explicit rescoring the engine answers with int8 scores."""
    return edge.SearchParams(
        hnsw_ef=settings.graph_search_width,
        quantization=edge.QuantizationSearchParams(rescore=True, oversampling=settings.oversampling),
    )


def load_shard(folder: Path, config: edge.EdgeConfig) -> edge.EdgeShard:
    """Open a shard, which replays its log, and add the payload indexes that an older one lacks."""
    shard = edge.EdgeShard.load(str(folder), config)
    for name in sorted(set(_INDEXES) - set(shard.info().payload_schema)):
        shard.update(edge.UpdateOperation.create_field_index(name, _INDEXES[name]))
    return shard


def create_shard(folder: Path, config: edge.EdgeConfig) -> None:
    """Make an empty shard, aside and renamed, so that a kill in between leaves nothing half made in its place.

    Raises:
        IndexUnavailableError: it cannot be made.
    """
    draft = folder.with_name("shard.new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shard = edge.EdgeShard.create(str(draft), config)
        # Indexed before anything is loaded: later indexes leave the graph without links for filters.
        for name, kind in _INDEXES.items():
            shard.update(edge.UpdateOperation.create_field_index(name, kind))
        shard.flush()
        shard.close()
        draft.rename(folder)
    except Exception as error:
        raise IndexUnavailableError(f"the embedded engine cannot make {folder}: {error}") from error
    sync_folder(folder.parent)


def stored_dim(folder: Path) -> int | None:
    """The length of a shard's vectors; None where there is no shard.

    Raises:
        ConfigurationError: its configuration cannot be read.
    """
    path = folder / "edge_config.json"
    if not path.exists():
        return None
    try:
        return int(json.loads(path.read_text())["vectors"][""]["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a configuration of this engine: {error}") from error


def wanted_dim(folder: Path, dim: int | None) -> int:
    """The length of the vectors of a collection that is to be made; ConfigurationError if nobody says one."""
    if dim is None:
        raise ConfigurationError(f"{folder} holds no collection")
    return dim


def close_shard(shard: edge.EdgeShard) -> None:
    """Close a shard that may have failed."""
    try:
        shard.close()
    except Exception:
        log.warning("the engine did not close cleanly", exc_info=True)


def upsert_operation(
    points: Sequence[FramePoint], rows: NDArray[np.float32], *, only_new: bool = False
) -> edge.UpdateOperation:
    """Store `points` with the vectors `rows`, (N, D); with `only_new` those whose ids are not there."""
    stored = [
        edge.Point(point.id, row, point.payload.model_dump(exclude_none=True))
        for point, row in zip(points, rows, strict=True)
    ]
    mode = edge.UpdateMode.InsertOnly if only_new else edge.UpdateMode.Upsert
    return edge.UpdateOperation.upsert_points(stored, update_mode=mode)


def compile_filter(where: Filter) -> edge.Filter:
    """The engine's words for a filter."""
    return edge.Filter(
        must=[_condition(condition) for condition in where.must],
        must_not=[_condition(condition) for condition in where.must_not],
    )


def _condition(condition: Condition) -> edge.FieldCondition:
    if isinstance(condition, AnyOf):
        values = list(condition.values)
        # The engine looks up one value quicker than a list of one.
        match = edge.MatchValue(values[0]) if len(values) == 1 else edge.MatchAny(values)
        return edge.FieldCondition(condition.field, match=match)
    return edge.FieldCondition(condition.field, range=edge.RangeFloat(gte=condition.low, lte=condition.high))


def uuid_of(value: object) -> UUID:
    """A point's id."""
    return value if isinstance(value, UUID) else UUID(str(value))


def point_of(record: edge.Record) -> FramePoint:
    """A stored point."""
    vector = normalized(np.asarray(record.vector, dtype=np.float32))
    return FramePoint(uuid_of(record.id), vector, FramePayload.model_validate(record.payload))


STUDY_ONLY: Final = ["study_instance_uid"]
"""What is read of the payload of a `StudyHit`."""


class StudyHit(NamedTuple):
    """A found frame of which only the study was read: payloads are read for those that are returned."""

    found: edge.ScoredPoint
    study: str


def study_hit_of(found: edge.ScoredPoint) -> StudyHit:
    """A found point by its study. Its id stays where it is: ten times as many are found as are returned."""
    return StudyHit(found, str((found.payload or {})["study_instance_uid"]))


def study_hits_of(best: Sequence[StudyHit], records: Sequence[edge.Record]) -> list[Hit]:
    """The found points with their whole payloads, which `records` has; one deleted in between is left out."""
    payloads = {uuid_of(record.id): FramePayload.model_validate(record.payload) for record in records}
    keys = [uuid_of(one.found.id) for one in best]
    return [
        Hit(key, cosine(one.found.score), payloads[key]) for key, one in zip(keys, best, strict=True) if key in payloads
    ]


def hit_of(found: edge.ScoredPoint) -> Hit:
    """A found point, with its payload."""
    return Hit(uuid_of(found.id), cosine(found.score), FramePayload.model_validate(found.payload))
