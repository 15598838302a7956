"""The record beside each map: everything that reproduces it, and what it was made from."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from shared.events import RESEARCH_USE_ONLY

SOURCE: Final = "Xie, Li, Cao, Zhang: ViT-CX, IJCAI 2023, arXiv 2211.03064"


class LetterboxRecord(BaseModel):
    """Where the frame lies on the map's grid, in its pixels."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    top: int
    left: int
    height: int
    width: int


class MapRecord(BaseModel):
    """What `<sop>-<frame>.json` holds. Research use only."""

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
    mask_count: int
    value_min: float
    value_max: float
    overlay_scale: dict[str, float]
    read_s: float
    explain_s: float
    overlay_s: float
    created_at: AwareDatetime


def noise_seed(study: str, sop: str, frame_number: int, head_id: str) -> int:
    """The seed of a map's noise: the same frame and head always give the same. 32 bits, all that torch uses."""
    digest = hashlib.sha256(f"{study}|{sop}|{frame_number}|{head_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
