"""One label as it was given, given anew, or withdrawn."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, model_validator

from shared.events import TaskName
from shared.ids import Uid

COMMENT_MAX: Final = 280
WHO_MAX: Final = 128

# One line of text: a control character has no place in it and could forge lines where it is shown.
Comment = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=COMMENT_MAX, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"),
]
ClassLabel = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class LabelTarget(BaseModel):
    """What of a study is labelled: nothing set, the whole; else one series, one SOP instance, or one frame of that."""

    model_config = ConfigDict(frozen=True)

    series_instance_uid: Uid | None = None
    sop_instance_uid: Uid | None = None
    frame_number: PositiveInt | None = Field(default=None, description="Counts from 1; goes with a SOP instance.")

    @model_validator(mode="after")
    def _frame_of_an_instance(self) -> Self:
        if self.frame_number is not None and self.sop_instance_uid is None:
            raise ValueError("frame_number goes with sop_instance_uid")
        return self

    @property
    def name(self) -> str:
        """Unique within the study. A SOP Instance UID needs no series beside it."""
        if self.frame_number is not None:
            return f"frame-{self.sop_instance_uid}-{self.frame_number}"
        if self.sop_instance_uid is not None:
            return f"instance-{self.sop_instance_uid}"
        if self.series_instance_uid is not None:
            return f"series-{self.series_instance_uid}"
        return "study"


class LabelRecord(BaseModel):
    """A person's label of a study for a task, or its withdrawal. Research use only."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    record_type: Literal["similis.label.v1"] = "similis.label.v1"
    label_id: UUID
    sequence: PositiveInt = Field(description="1 for the first record of a target; one more than the newest known.")
    recorded_at: AwareDatetime
    recorded_by: str | None = Field(
        max_length=WHO_MAX, description="The authenticated principal; null where nobody was asked who they are."
    )
    study_instance_uid: Uid
    study_revision: PositiveInt | None = Field(description="The study's newest revision then; null in a withdrawal.")
    target: LabelTarget
    task: TaskName
    label: ClassLabel | None = Field(description="One of the task's classes; null: withdrawn.")
    comment: Comment | None = Field(default=None, description="Free text of the person; must hold no identity.")
    supersedes: UUID | None = Field(description="The record that stood before; null for the first one.")
    notice: Literal["research use only"] = "research use only"
