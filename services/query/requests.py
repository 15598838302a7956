"""What the API, version 1, is asked: searches and their filters."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, StringConstraints, model_validator

from services.query.schema import SOP_EXAMPLE, STUDY_EXAMPLE
from shared.events import Decision
from shared.ids import Uid

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
        return self
