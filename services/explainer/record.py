"""The record beside each map: everything that reproduces it, and what it was made from."""

from __future__ import annotations

from typing import Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.events import RESEARCH_USE_ONLY, Reliability, ResultObject

SOURCE: Final = "Xie, Li, Cao, Zhang: ViT-CX, IJCAI 2023, arXiv 2211.03064"


class LetterboxRecord(BaseModel):
    """Where the frame lies on the map's grid, in its pixels."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    top: int
    left: int
    height: int
    width: int


class MapRecord(BaseModel):
    """What `<sop>-<frame>.json` holds. Research use only.

    `grid_to_source` is the affine (3, 3) that takes (row, column, 1) on the map's grid to the frame's pixels, both
    counted from the centre of the first pixel.
    """

    model_config = ConfigDict(frozen=True)

    notice: Literal["research use only"] = RESEARCH_USE_ONLY
    method: str
    mode: str
    source: str = SOURCE
    seed: int
    parameters: dict[str, Any]
    task: str
    target_label: str
    target_probability: float
    backbone_id: str
    head_id: str
    diagnosis_event_id: UUID
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    frame_number: int
    instance_key: str
    instance_sha256: str
    map_shape: tuple[int, int]
    letterbox: LetterboxRecord
    grid_to_source: list[list[float]]
    mask_count: int
    forwards: int
    value_min: float
    value_max: float
    reliability: Reliability
    reliability_reason: str
    trust: dict[str, Any]
    overlay_scale: dict[str, float]
    objects: tuple[ResultObject, ...]
    seconds: dict[str, float]
    created_at: AwareDatetime
