"""The collections of one backbone, opened for writing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from services.embedder.cells import CellGrid
from services.embedder.derived_points import DerivedIndexes
from services.embedder.region_points import Regions
from services.embedder.settings import EmbedderSettings
from shared.vector_index import collection_name, open_index, space_collection_name
from shared.vector_index.port import VectorIndex
from shared.vision.backbone import Backbone
from shared.vision.tasks import Task


def open_collections(
    settings: EmbedderSettings, backbone: Backbone, tasks: Sequence[Task] = ()
) -> tuple[VectorIndex, DerivedIndexes]:
    """The frames' index, and those of what is derived from frames; `tasks` are those whose heads have a space.

    Raises:
        ConfigurationError: no vector engine is set.
    """
    section = settings.embedder
    of_backbone = partial(open_index, settings.qdrant, dim=backbone.dim)
    regions = None
    if section.region_frames_max:
        grid = CellGrid(section.region_grid, backbone.input_size_px // backbone.patch_px)
        of_regions = of_backbone(collection=collection_name(backbone.id, "regions"))
        regions = Regions(of_regions, grid, section.region_frames_max)
    spaces = {
        task.name: open_index(settings.qdrant, collection=space_collection_name(task.head.id), dim=task.head.space_dim)
        for task in tasks
        if task.head.space_dim
    }
    derived = DerivedIndexes(
        series=of_backbone(collection=collection_name(backbone.id, "series")),
        studies=of_backbone(collection=collection_name(backbone.id, "studies")),
        spaces=spaces,
        regions=regions,
    )
    return of_backbone(collection=collection_name(backbone.id)), derived


def close_collections(index: VectorIndex, derived: DerivedIndexes | None) -> None:
    """Release what `open_collections` opened."""
    opened = [index]
    if derived is not None:
        opened += [derived.series, derived.studies, *derived.spaces.values()]
        opened += [derived.regions.index] if derived.regions is not None else []
    for one in opened:
        one.close()
