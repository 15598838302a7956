"""What the API, version 1, is asked: searches and their filters."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, StringConstraints, model_validator

from services.query.examples import SOP_EXAMPLE, STUDY_EXAMPLE
from shared.events import Decision
from shared.ids import Uid
from shared.vector_index.port import Region

Value = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Filters(BaseModel):
    """Which studies may be found: within a field any of the values, between fields all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: list[Value] = Field([], max_length=32, examples=[["brain-mr"]])
    label: list[Value] = Field([], max_length=32, examples=[["glioma-like"]])
    decision: list[Decision] = Field([], max_length=8)
    modality: list[Value] = Field([], max_length=32, examples=[["MR"]])
    body_part: list[Value] = Field([], max_length=32, examples=[["BRAIN"]])
    sex: list[Value] = Field([], max_length=8, examples=[["F"]])
    age_band: list[Value] = Field([], max_length=16, description="Ten-year bands.", examples=[["60-69"]])
    study_date_from: date | None = Field(None, description="First Study Date, included.")
    study_date_to: date | None = Field(None, description="Last Study Date, included.")


class RegionOfInterest(Region):
    """A box on a frame, in shares of its width and height."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"left": 0.4, "top": 0.3, "width": 0.2, "height": 0.2}]},
    )

    @model_validator(mode="after")
    def _on_the_frame(self) -> Self:
        if max(self.left + self.width, self.top + self.height) > 1 + 1e-6:
            raise ValueError("the box reaches beyond the frame")
        return self

    @classmethod
    def of_text(cls, text: str) -> Self:
        """From `left,top,width,height`.

        Raises:
            ValueError: it is no such box.
        """
        parts = text.split(",")
        if len(parts) != 4:
            raise ValueError("a region is left,top,width,height")
        left, top, width, height = (float(part) for part in parts)
        return cls(left=left, top=top, width=width, height=height)


class SearchOptions(BaseModel):
    """What a search returns, whatever it starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filters: Filters = Filters()
    group_by: Literal["study", "frame"] = Field(
        "study", description="study: the best frame of each study. frame: frames, several of one study allowed."
    )
    exclude_own_patient: bool | None = Field(
        None, description="Leave out the query's own patient. Unset: as the service is set up (by default, yes)."
    )
    limit: PositiveInt = Field(10, description="Most neighbours; the service caps it (see /v1/info).")
    space: Value = Field(
        "visual",
        description="visual: the backbone's own embeddings. A task's name: what that task learned to tell apart.",
        examples=["visual", "brain-mr"],
    )
    level: Literal["frame", "series", "study"] = Field(
        "frame", description="Compare single frames, or the means of series or of studies (visual space only)."
    )
    region: RegionOfInterest | None = Field(
        None, description="Search by this box on the one frame; neighbours are regions of frames (visual space only)."
    )
    cursor: str | None = Field(
        None, max_length=65536, description="`next_cursor` of the page before; all else as it was then."
    )

    @model_validator(mode="after")
    def _region_alone(self) -> Self:
        if self.region is not None and (self.space != "visual" or self.level != "frame"):
            raise ValueError("a region is searched in the visual space, at the level of frames")
        return self


class SearchRequest(SearchOptions):
    """Exactly one starting point, and options."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"study_instance_uid": STUDY_EXAMPLE, "limit": 10},
                {"sop_instance_uid": SOP_EXAMPLE, "frame_number": 1, "filters": {"modality": ["MR"]}},
            ]
        },
    )

    study_instance_uid: Uid | None = Field(
        None,
        description="The study's evidence frames; without evidence, all its indexed frames. Their mean is searched.",
    )
    series_instance_uid: Uid | None = Field(None, description="The mean of the series' indexed frames.")
    sop_instance_uid: Uid | None = Field(
        None, description="The frame `frame_number`; without one, the mean of the instance's indexed frames."
    )
    frame_number: PositiveInt | None = Field(None, description="With sop_instance_uid; counts from 1.")
    vector: list[FiniteFloat] | None = Field(
        None, min_length=1, max_length=8192, description="An embedding of the backbone that /v1/info names; any norm."
    )

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        starts = (self.study_instance_uid, self.series_instance_uid, self.sop_instance_uid, self.vector)
        if sum(start is not None for start in starts) != 1:
            raise ValueError("give exactly one of study_instance_uid, series_instance_uid, sop_instance_uid, vector")
        if self.frame_number is not None and self.sop_instance_uid is None:
            raise ValueError("frame_number goes with sop_instance_uid")
        if self.region is not None and self.frame_number is None:
            raise ValueError("a region goes with sop_instance_uid and frame_number")
        return self


class BatchRequest(BaseModel):
    """Several searches in one request."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"searches": [{"study_instance_uid": STUDY_EXAMPLE, "limit": 10}]}]},
    )

    searches: list[SearchRequest] = Field(min_length=1, max_length=1000, description="The service caps their number.")


class FrameReference(BaseModel):
    """A frame of something indexed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"sop_instance_uid": SOP_EXAMPLE, "frame_number": 1}]},
    )

    sop_instance_uid: Uid
    frame_number: PositiveInt = Field(1, description="Counts from 1.")


class MatchRequest(BaseModel):
    """Two frames to compare patch by patch."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "query": {"sop_instance_uid": SOP_EXAMPLE, "frame_number": 1},
                    "neighbour": {"sop_instance_uid": SOP_EXAMPLE, "frame_number": 2},
                }
            ]
        },
    )

    query: FrameReference
    neighbour: FrameReference
