"""What the routes of explanations on demand are asked and what they answer."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from services.query import examples
from services.query.examples import SOP_EXAMPLE, STUDY_EXAMPLE, example
from services.query.schema import Notice, SaliencyMap
from shared.events import TaskName
from shared.ids import Uid


class FrameChoice(BaseModel):
    """One frame of the study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sop_instance_uid: Uid
    frame_number: PositiveInt = Field(default=1, description="Counts from 1.")


class ExplanationRequest(BaseModel):
    """What to explain: a class, on some frames, of a task's diagnosis of a study."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"study_instance_uid": STUDY_EXAMPLE, "task": "brain-mr"},
                {
                    "study_instance_uid": STUDY_EXAMPLE,
                    "task": "brain-mr",
                    "label": "normal",
                    "frames": [{"sop_instance_uid": SOP_EXAMPLE, "frame_number": 1}],
                },
            ]
        },
    )

    study_instance_uid: Uid
    task: TaskName
    label: str | None = Field(default=None, max_length=64, description="One of the task's; unset: the predicted one.")
    frames: tuple[FrameChoice, ...] = Field(
        default=(), max_length=16, description="Unset: the frames that weighed most. The service caps their number."
    )


class Explanation(BaseModel):
    """What came of a request so far."""

    model_config = example(examples.EXPLANATION)

    request_id: UUID
    study_instance_uid: str
    revision: PositiveInt
    task: str
    label: str
    state: Literal["waiting", "explained", "failed"]
    reason: str | None = Field(description="Why there is no map; null unless failed.")
    maps: tuple[SaliencyMap, ...]
    url: str = Field(description="Where to ask again; relative to the service.")
    notice: Notice = "research use only"
