"""The backbone that is searched: the one whose collection of frames the alias `live` stands for.

Two may be named: SIMILIS_VISION__BACKBONE, which is searched while the alias was never switched, and
SIMILIS_NEXT__BACKBONE. Diagnoses are made by the first one's heads, whichever is searched.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.query.parts import Parts
from services.query.ports import Encoder
from services.query.schema import TaskInfo
from services.query.settings import QuerySettings
from services.query.spaces import Collections, Space
from shared.errors import ConfigurationError, WeightsError
from shared.settings import VisionSettings
from shared.unforeseen import told
from shared.vector_index import collection_name, open_index
from shared.vector_index.aliases import LIVE_ALIAS, open_aliases
from shared.vision.live_version import live_folder
from shared.vision.retrieval_report import RetrievalReport
from shared.vision.tasks import BUILT_IN, load_tasks
from shared.vision.weights import backbone_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveBackbone:
    """A loaded backbone, and the spaces of the heads that read it."""

    encoder: Encoder
    spaces: Mapping[str, Space]


def load_at_start(settings: QuerySettings) -> LiveBackbone:
    """Load the searched backbone; the first one if it cannot be had, or while the index is away.

    Raises:
        ConfigurationError, WeightsError: as `load_live`, of the first one.
    """
    try:
        with contextlib.closing(open_aliases(settings.qdrant)) as aliases:
            collection = aliases.get(LIVE_ALIAS)
        vision = settings.vision if collection is None else vision_of(settings, collection)
        if vision is not settings.vision:
            return load_live(vision)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first one may do, and `follow_live` tries again
        log.warning("searches begin with SIMILIS_VISION__BACKBONE: %s", told(error))
    return load_live(settings.vision)


def vision_of(settings: QuerySettings, collection: str) -> VisionSettings:
    """The settings of the backbone that fills a collection of frames. May block.

    Raises:
        ConfigurationError: neither of the two does, or its weights are not there.
    """
    for vision in (settings.vision, settings.next.vision(settings.vision)):
        if vision is None:
            continue
        try:
            if collection_name(backbone_id(vision)) == collection:
                return vision
        except WeightsError as error:
            log.warning("%s", error)
    raise ConfigurationError(
        f"the alias {LIVE_ALIAS} stands for {collection}, which neither SIMILIS_VISION__BACKBONE nor "
        "SIMILIS_NEXT__BACKBONE fills"
    )


def load_live(vision: VisionSettings) -> LiveBackbone:
    """Load a backbone and the heads that read it. Blocks for seconds.

    Raises:
        ConfigurationError: a task is not valid.
        WeightsError: the backbone or a head is missing or not the pinned one.
    """
    # Torch takes seconds to import, and describing the API must not need it.
    from shared.vision.backbone import load_backbone

    backbone = load_backbone(vision)
    folder = vision.tasks_dir or BUILT_IN
    spaces = {
        task.name: Space(
            task.name,
            task.definition.title,
            task.head,
            RetrievalReport.load(live_folder(folder / task.name), head_id=task.head.id, backbone_id=backbone.id),
        )
        for task in load_tasks(vision.tasks_dir, backbone.id)
        if task.head.space_dim is not None
    }
    return LiveBackbone(backbone, spaces)


def judging_tasks(vision: VisionSettings) -> tuple[TaskInfo, ...]:
    """The tasks that the embedder judges by, `vision` being those of the first backbone. May block.

    Raises:
        ConfigurationError: a task is not valid.
        WeightsError: the backbone or a head is missing or not the pinned one.
    """
    return tuple(
        TaskInfo(
            name=task.name,
            title=task.definition.title,
            labels=tuple(entry.label for entry in task.definition.classes),
            findings=tuple(entry.label for entry in task.definition.classes if entry.is_finding),
            abstain_below=task.definition.abstain_below,
            head_id=task.head.id,
        )
        for task in load_tasks(vision.tasks_dir, backbone_id(vision))
    )


def open_collections(settings: QuerySettings, live: LiveBackbone) -> Collections:
    """The collections of a backbone; nothing is asked of the engine here.

    Raises:
        ConfigurationError: no vector engine is set.
    """
    encoder = live.encoder
    return Collections(
        encoder.id,
        encoder.dim,
        open_index(settings.qdrant, collection=collection_name(encoder.id), dim=encoder.dim),
        lambda name, dim: open_index(settings.qdrant, collection=name, dim=dim),
        open_aliases(settings.qdrant),
        live.spaces,
    )


def with_live(parts: Parts, encoder: Encoder, collections: Collections) -> Parts:
    """The same parts, but that searches are by this backbone. Who has the old ones ends on them."""
    return replace(
        parts,
        encoder=encoder,
        find_similar=replace(parts.find_similar, index=collections.frames, backbone_id=encoder.id),
        collections=collections,
    )
