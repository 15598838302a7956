"""What a search answers, in version 1 of the API.

No answer holds identity: no name, no Patient ID, no pseudonym, no AE title. Whatever shows a
diagnosis carries the notice.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from services.query import examples
from services.query.examples import example
from services.query.problems import ProblemDetails
from services.query.schema import Notice
from shared.events import Probability
from shared.vector_index.port import Region


class Neighbour(BaseModel):
    """A similar frame, and its study's prediction."""

    model_config = example(examples.NEIGHBOUR)

    rank: PositiveInt
    score: float = Field(description="Cosine similarity of the embeddings, -1 to 1.")
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    frame_number: PositiveInt
    modality: str
    body_part: str | None
    sex: str | None
    age_band: str | None
    study_date: date | None
    task: str
    decision: str
    label: str | None
    label_source: Literal["predicted", "confirmed"]
    agrees: bool | None = Field(description="Whether its label is the query's; null if either has none.")
    region: Region | None = Field(None, description="The part of the frame that matched a searched region.")
    image_url: str
    notice: Notice = "research use only"


class LabelCount(BaseModel):
    """How many neighbouring studies carry a label."""

    model_config = ConfigDict(frozen=True)

    label: str
    studies: PositiveInt


class VoteCalibration(BaseModel):
    """How often such a vote was right when it was measured on studies whose class is known."""

    model_config = example(
        {
            "probability": 0.82,
            "low": 0.7,
            "high": 0.9,
            "source": "phantom images: 60 of 96 test studies of brain-mr, simulated; research use only",
        }
    )

    probability: Probability = Field(description="Share of such votes that were right.")
    low: Probability = Field(description="Lower end of its 95 % interval.")
    high: Probability = Field(description="Upper end of its 95 % interval.")
    source: str = Field(description="What it was measured on.")


class Vote(BaseModel):
    """The neighbours' majority: each study among them has one vote, that of its best frame."""

    model_config = example(examples.VOTE)

    label: str | None = Field(description="The commonest label; null without voters and on a tie.")
    votes: NonNegativeInt = Field(description="Of the commonest label.")
    voters: NonNegativeInt = Field(description="Neighbouring studies with a label.")
    without_label: NonNegativeInt = Field(description="Neighbouring studies without one: no task, or abstained.")
    tie: bool
    counts: tuple[LabelCount, ...]
    calibration: VoteCalibration | None = Field(
        None, description="Null unless the vote is of the kind that was measured: ten studies for a whole study."
    )
    notice: Notice = "research use only"


class QueryFacts(BaseModel):
    """What was searched for."""

    model_config = example(examples.SEARCH["query"])

    kind: Literal["study", "series", "instance", "frame", "vector", "upload"]
    frames_used: NonNegativeInt = Field(description="Frames whose embeddings were averaged; 0 for a vector.")
    study_instance_uid: str | None
    task: str | None
    decision: str | None
    label: str | None = Field(description="The query study's own predicted label, if it is indexed and has one.")
    own_patient_excluded: bool
    space: str = Field("visual", description="The space that was searched.")
    level: Literal["frame", "series", "study"] = "frame"
    region: Region | None = None
    preview: str | None = Field(None, description="Uploads: a data: URI with a small PNG of the (middle) frame.")
    notice: Notice = "research use only"


class SearchResponse(BaseModel):
    """Neighbours, best first."""

    model_config = example(examples.SEARCH)

    query: QueryFacts
    results: tuple[Neighbour, ...]
    vote: Vote
    next_cursor: str | None = Field(None, description="Pass as `cursor` to get the next page; null on the last.")
    backbone_id: str
    took_ms: NonNegativeFloat
    notice: Notice = "research use only"


class BatchAnswer(BaseModel):
    """One search of a batch: its answer, or the problem that it met."""

    model_config = ConfigDict(frozen=True)

    answer: SearchResponse | None
    problem: ProblemDetails | None


class BatchResponse(BaseModel):
    """The answers of a batch, in the order of its searches."""

    model_config = example({"answers": [{"answer": examples.SEARCH, "problem": None}], **examples.NOTICE})

    answers: tuple[BatchAnswer, ...]
    notice: Notice = "research use only"


class RegionMatch(BaseModel):
    """A region of either frame that is like one of the other."""

    model_config = example(examples.REGION_MATCH)

    query: Region
    neighbour: Region
    score: float = Field(description="Mean cosine similarity of the patches that are each other's nearest, -1 to 1.")


class MatchResponse(BaseModel):
    """Which regions of two frames correspond, best first: what moved the similarity, not where disease is."""

    model_config = example({"matches": [examples.REGION_MATCH], "method": "mutual nearest patches", **examples.NOTICE})

    matches: tuple[RegionMatch, ...]
    method: str
    notice: Notice = "research use only"
