"""What the API, version 1, answers. What it is asked stands in `requests.py`.

No answer holds identity: no name, no Patient ID, no pseudonym, no AE title. Whatever shows a
diagnosis carries the notice.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
)

from services.query import examples
from services.query.examples import PICTURE_EXAMPLE, SERIES_EXAMPLE, SOP_EXAMPLE, STUDY_EXAMPLE, example
from shared.events import ClassScore, Decision, Faithfulness, Probability, Reliability

Notice = Literal["research use only"]


# -- diagnoses -------------------------------------------------------------------------------
class Verdict(BaseModel):
    """One task's prediction in short."""

    model_config = example(examples.VERDICT)

    task: str
    decision: Decision
    label: str | None = Field(description="The predicted class; null where the task names none.")
    confidence: Probability | None
    reason: str
    notice: Notice = "research use only"


class Evidence(BaseModel):
    """A frame that weighed most for the prediction."""

    model_config = ConfigDict(frozen=True)

    series_instance_uid: str
    sop_instance_uid: str
    frame_number: PositiveInt
    probability: Probability
    image_url: str = Field(examples=[PICTURE_EXAMPLE])


class Diagnosis(Verdict):
    """One task's prediction in full."""

    model_config = example(examples.DIAGNOSIS)

    revision: PositiveInt = Field(description="The study's revision that was judged.")
    diagnosed_at: AwareDatetime
    classes: tuple[ClassScore, ...]
    evidence: tuple[Evidence, ...]
    frames_embedded: NonNegativeInt
    skipped_count: NonNegativeInt = Field(description="Objects that were not embedded.")
    partial: bool = Field(description="Some image could not be decoded.")
    backbone_id: str
    head_id: str | None


class SaliencyMap(BaseModel):
    """A map of what in a frame spoke for the predicted class."""

    model_config = example(examples.SALIENCY_MAP)

    task: str
    target_label: str
    series_instance_uid: str
    sop_instance_uid: str
    frame_number: PositiveInt
    method: str = Field(examples=["ViT-CX"])
    mode: str
    seed: NonNegativeInt
    mask_count: PositiveInt
    value_min: float
    value_max: float
    layer_url: str = Field(description="PNG of the map alone, transparent, to be laid over the frame's picture.")
    overlay_url: str = Field(description="PNG of frame, map and scale, as archived.")
    record_url: str = Field(description="JSON that reproduces the map.")
    reliability: Reliability = Field(description="not-reliable: it hardly says more than random weights would.")
    reliability_reason: str
    faithfulness: Faithfulness | None = Field(description="Null if it was not measured.")
    requested: bool = Field(description="Somebody asked for it; false: the task's policy made it.")
    notice: Notice = "research use only"


# -- studies ---------------------------------------------------------------------------------
class StudySummary(BaseModel):
    """A study in the list."""

    model_config = example(examples.STUDY_SUMMARY)

    study_instance_uid: str = Field(examples=[STUDY_EXAMPLE])
    revision: PositiveInt
    received_at: AwareDatetime
    study_date: date | None
    modalities: tuple[str, ...] = Field(examples=[["MR"]])
    body_parts: tuple[str, ...] = Field(examples=[["BRAIN"]])
    sexes: tuple[str, ...]
    age_bands: tuple[str, ...]
    series_count: NonNegativeInt
    instance_count: NonNegativeInt
    frame_count: NonNegativeInt
    mixed_patients: bool
    state: Literal["waiting", "diagnosed"] = Field(description="waiting: received, not judged yet.")
    verdicts: tuple[Verdict, ...]
    map_count: NonNegativeInt
    image_url: str | None = Field(description="A picture that stands for the study.", examples=[PICTURE_EXAMPLE])
    notice: Notice = "research use only"


class StudyList(BaseModel):
    """One page of studies, newest first."""

    model_config = example(examples.STUDY_LIST)

    studies: tuple[StudySummary, ...]
    total: NonNegativeInt = Field(description="Studies that meet the filters, on all pages.")
    next_cursor: str | None = Field(description="Pass as `cursor` to get the next page; null on the last.")
    facets: Facets | None = Field(None, description="If asked for: counts, each field's own filter left out.")
    notice: Notice = "research use only"


class FramePlace(BaseModel):
    """One frame in viewing order."""

    model_config = ConfigDict(frozen=True)

    sop_instance_uid: str = Field(examples=[SOP_EXAMPLE])
    frame_number: PositiveInt
    image_url: str


class SeriesDetail(BaseModel):
    """A series with its frames in viewing order."""

    model_config = ConfigDict(frozen=True)

    series_instance_uid: str = Field(examples=[SERIES_EXAMPLE])
    modality: str
    body_part: str | None
    instance_count: NonNegativeInt
    frames: tuple[FramePlace, ...] = Field(description="By position in space where the objects say it.")


class StudyDetail(StudySummary):
    """A study with everything that may be shown of it."""

    model_config = example(examples.STUDY_DETAIL)

    series: tuple[SeriesDetail, ...]
    diagnoses: tuple[Diagnosis, ...]
    maps: tuple[SaliencyMap, ...]


# -- about -----------------------------------------------------------------------------------
class FacetValue(BaseModel):
    """A value with the number of studies that have it."""

    model_config = ConfigDict(frozen=True)

    value: str
    studies: PositiveInt


class Facets(BaseModel):
    """Values to filter by, commonest first."""

    model_config = example(examples.FACETS)

    studies: NonNegativeInt
    task: tuple[FacetValue, ...]
    decision: tuple[FacetValue, ...]
    label: tuple[FacetValue, ...]
    modality: tuple[FacetValue, ...]
    body_part: tuple[FacetValue, ...]
    sex: tuple[FacetValue, ...]
    age_band: tuple[FacetValue, ...]
    notice: Notice = "research use only"


class TaskInfo(BaseModel):
    """An installed task."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    labels: tuple[str, ...]
    findings: tuple[str, ...]
    abstain_below: Probability
    head_id: str


class SpaceInfo(BaseModel):
    """A space that can be searched."""

    model_config = example(examples.SPACE)

    name: str = Field(description="Pass as `space`.")
    title: str
    description: str


class Info(BaseModel):
    """What this service is."""

    model_config = example(examples.INFO)

    name: Literal["Similis"] = "Similis"
    version: str
    backbone_id: str
    embedding_dim: PositiveInt
    tasks: tuple[TaskInfo, ...]
    spaces: tuple[SpaceInfo, ...] = Field(description="The visual space, and that of each task whose head has one.")
    region_search: bool = Field(description="Whether regions of frames are indexed, so that `region` finds something.")
    takes_labels: bool = Field(description="Whether labels may be given here.")
    takes_map_requests: bool = Field(description="Whether saliency maps may be asked for here: there is a broker.")
    studies: NonNegativeInt
    frames_indexed: NonNegativeInt | None = Field(description="null while the vector index does not answer.")
    search_limit_max: PositiveInt
    upload_max_bytes: PositiveInt
    notice: Notice = "research use only"
