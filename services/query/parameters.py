"""The parameters in paths and queries that several routes share."""

from __future__ import annotations

from datetime import date
from typing import Annotated
from uuid import UUID

from fastapi import Path, Query

from services.query.examples import SOP_EXAMPLE, STUDY_EXAMPLE
from services.query.requests import Value
from shared.events import Decision, TaskName
from shared.ids import Uid

StudyUid = Annotated[Uid, Path(description="Study Instance UID.", examples=[STUDY_EXAMPLE])]
SopUid = Annotated[Uid, Path(description="SOP Instance UID.", examples=[SOP_EXAMPLE])]
Task = Annotated[TaskName, Path(description="Name of a task; see /v1/info.", examples=["brain-mr"])]
RequestId = Annotated[UUID, Path(description="`request_id` of the answer to the request for maps.")]
IndexedSopUid = Annotated[Uid, Query(description="SOP Instance UID of an indexed object.", examples=[SOP_EXAMPLE])]

# Filters: within a field any of the values, between fields all. As many values as `requests.Filters` takes.
Tasks = Annotated[list[Value], Query(max_length=32, description="Judged by any of these tasks.")]
Labels = Annotated[list[Value], Query(max_length=32, description="Any of these predicted classes.")]
Decisions = Annotated[list[Decision], Query(max_length=8, description="Any of these decisions.")]
Modalities = Annotated[list[Value], Query(max_length=32, description="Any of these modalities, such as MR.")]
BodyParts = Annotated[list[Value], Query(max_length=32, description="Any of these body parts, such as BRAIN.")]
Sexes = Annotated[list[Value], Query(max_length=8, description="Any of these values of Patient's Sex.")]
AgeBands = Annotated[list[Value], Query(max_length=16, description="Any of these ten-year bands, such as 60-69.")]
FirstDate = Annotated[date | None, Query(description="First Study Date, included.")]
LastDate = Annotated[date | None, Query(description="Last Study Date, included.")]
