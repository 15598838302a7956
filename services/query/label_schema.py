"""What the label routes are asked and what they answer."""

from __future__ import annotations

from typing import Final, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from services.query import examples
from services.query.examples import SERIES_EXAMPLE, SOP_EXAMPLE, STUDY_EXAMPLE, example
from services.query.schema import Notice
from shared.ids import Uid
from shared.labels import Comment, LabelTarget
from shared.labels.record import ClassLabel

COMMENT_NOTE: Final = (
    "One line, kept as typed and shown to whoever may read labels. It must hold no identity: no name, number, date "
    "of birth or place of a patient."
)


class LabelRequest(BaseModel):
    """A class for a study, or for one series, SOP instance or frame of it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"label": "glioma-like", "comment": "left temporal"},
                {"label": "normal", "sop_instance_uid": SOP_EXAMPLE},
                {"label": "normal", "sop_instance_uid": SOP_EXAMPLE, "frame_number": 7},
            ]
        },
    )

    label: ClassLabel = Field(description="One of the task's classes; see /v1/labels/{task}.")
    series_instance_uid: Uid | None = Field(None, description="Only this series is labelled.")
    sop_instance_uid: Uid | None = Field(None, description="Only this object is labelled; its series may be left out.")
    frame_number: PositiveInt | None = Field(None, description="Only this frame; with sop_instance_uid, from 1.")
    comment: Comment | None = Field(None, description=COMMENT_NOTE)

    @model_validator(mode="after")
    def _frame_of_an_instance(self) -> Self:
        if self.frame_number is not None and self.sop_instance_uid is None:
            raise ValueError("frame_number goes with sop_instance_uid")
        return self

    @property
    def target(self) -> LabelTarget:
        """What is to be labelled."""
        return LabelTarget(
            series_instance_uid=self.series_instance_uid,
            sop_instance_uid=self.sop_instance_uid,
            frame_number=self.frame_number,
        )


class StudyLabel(BaseModel):
    """A label as a person gave it, or its withdrawal. Not a diagnosis."""

    model_config = example(examples.LABEL)

    label_id: UUID
    sequence: PositiveInt = Field(description="Counts the records of this target from 1.")
    task: str
    label: str | None = Field(description="One of the task's classes; null: withdrawn.")
    study_instance_uid: str
    series_instance_uid: str | None = Field(examples=[SERIES_EXAMPLE])
    sop_instance_uid: str | None
    frame_number: PositiveInt | None
    study_revision: PositiveInt | None = Field(description="The study's newest revision then; null in a withdrawal.")
    recorded_at: AwareDatetime
    recorded_by: str | None = Field(description="The authenticated principal; null where the service asks for none.")
    comment: str | None = Field(description=COMMENT_NOTE)
    supersedes: UUID | None = Field(description="The record of this target that stood before.")
    notice: Notice = "research use only"


class StudyLabels(BaseModel):
    """The labels of one study, for all tasks."""

    model_config = example(
        {"study_instance_uid": STUDY_EXAMPLE, "labels": [examples.LABEL], "history": None, **examples.NOTICE}
    )

    study_instance_uid: str = Field(examples=[STUDY_EXAMPLE])
    labels: tuple[StudyLabel, ...] = Field(description="Those that count now: by task, then by target.")
    history: tuple[StudyLabel, ...] | None = Field(
        description="With history=true: every record, of each target the oldest first; else null."
    )
    notice: Notice = "research use only"


class TaskLabels(BaseModel):
    """One page of the labels that count for a task, in a fixed order of studies and targets."""

    model_config = example(
        {
            "task": "brain-mr",
            "classes": ["normal", "glioma-like"],
            "labels": [examples.LABEL],
            "next_cursor": None,
            **examples.NOTICE,
        }
    )

    task: str = Field(examples=["brain-mr"])
    classes: tuple[str, ...] = Field(description="The labels that may be given.", examples=[["normal", "glioma-like"]])
    labels: tuple[StudyLabel, ...]
    next_cursor: str | None = Field(description="Pass as `cursor` to get the next page; null on the last.")
    notice: Notice = "research use only"
