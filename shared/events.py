"""The events, past-tense facts that travel on Kafka.

They carry UIDs, archive keys and figures; never pixels, never a patient's identity. Unknown
fields are ignored, so a new optional field is compatible; a breaking change is a new class on a
`.v2` topic. The Kafka key is the Study Instance UID, so the events of one study stay in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from shared import ids
from shared.ids import Uid

RESEARCH_USE_ONLY: Final = "research use only"
NO_TASK: Final = "none"
MAX_DETAIL: Final = 300  # characters of an error's text in `detail`

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]


class EventModel(BaseModel):
    """A value inside an event."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(EventModel):
    """What every event carries."""

    event_type: ClassVar[str]

    event_id: UUID = Field(description="Deterministic: the same facts give the same id.")
    occurred_at: AwareDatetime
    study_instance_uid: Uid
    revision: PositiveInt = Field(description="1 for a study's first completion; +1 each time late objects arrive.")

    @property
    def key(self) -> bytes:
        """The Kafka key."""
        return self.study_instance_uid.encode("ascii")


class StudyReceived(Event):
    """A study is complete, as far as is known, and durable in the archive."""

    event_type: ClassVar[str] = "similis.study.received.v1"

    manifest_key: str = Field(description="Archive key of the study's manifest (JSON).")
    patient_pseudonyms: tuple[str, ...] = Field(description="Keyed hashes; more than one if patients are mixed.")
    mixed_patients: bool = Field(description="Objects under this study UID name different patients.")
    modalities: tuple[str, ...]
    instance_count: PositiveInt
    new_instance_count: PositiveInt = Field(description="Instances that no earlier revision had.")
    frame_count: NonNegativeInt = Field(description="Image frames; 0 if no object is an image.")

    @classmethod
    def identify(cls, study_instance_uid: str, revision: int) -> UUID:
        """This event's deterministic id."""
        return ids.event_id(cls.event_type, study_instance_uid, revision)


class Decision(StrEnum):
    """What a task concluded about a study."""

    FINDING = "finding"
    NO_FINDING = "no-finding"
    ABSTAINED = "abstained"
    OUT_OF_DISTRIBUTION = "out-of-distribution"
    NO_TASK = "no-task"


class CodedMeaning(EventModel):
    """A code sequence item: PS3.3 section 8.8."""

    value: str
    scheme: str
    meaning: str


class ClassScore(EventModel):
    """One class of a task with its calibrated study-level probability."""

    label: str
    probability: Probability
    is_finding: bool
    code: CodedMeaning | None = None
    low: Probability | None = Field(
        default=None,
        description="5th percentile of `probability` over resampled frames; null with fewer than two frames.",
    )
    high: Probability | None = Field(default=None, description="95th percentile, likewise.")


class SeriesScore(EventModel):
    """One series of the study, scored by itself."""

    series_instance_uid: Uid
    frames: PositiveInt = Field(description="Frames of it that the task judged.")
    label: str = Field(description="The most probable class of this series alone.")
    probability: Probability
    probabilities: dict[str, Probability] = Field(default_factory=dict, description="Of every class, by its label.")


class Unfamiliarity(EventModel):
    """How unlike the training images the study is."""

    kind: str = Field(description="How the distance is defined: a name in the model card.")
    distance: NonNegativeFloat = Field(description="Median over the judged frames; near 1 for images like them.")
    limit: NonNegativeFloat | None = Field(default=None, description="Above it, the task does not decide.")


class ModelCardReference(EventModel):
    """Which trained head judged, and which card describes it."""

    task: TaskName
    head_sha256: str | None = Field(default=None, description="Of `head.safetensors`.")
    card_sha256: str | None = Field(default=None, description="Of `model-card.json`.")


class StageSeconds(EventModel):
    """Where the time of a study went. Decoding and encoding overlap, and other studies may run beside it."""

    survey_s: NonNegativeFloat | None = Field(default=None, description="Every object read, verified and parsed.")
    decode_s: NonNegativeFloat | None = Field(default=None, description="In the decoders, summed over workers.")
    encode_s: NonNegativeFloat | None = Field(default=None, description="Its share of the model's forward passes.")
    embed_s: NonNegativeFloat | None = Field(default=None, description="From the first decode to the last vector.")
    judge_s: NonNegativeFloat | None = Field(default=None, description="All tasks together.")
    index_s: NonNegativeFloat | None = Field(default=None, description="Points written to the vector index.")


class FailedFrame(EventModel):
    """A frame that was wanted and could not be decoded."""

    sop_instance_uid: Uid
    frame_number: PositiveInt = Field(description="Counts from 1.")
    reason: str = Field(
        description="undecodable, too-large, decoder-died, timed-out or not-explainable; more may come."
    )
    detail: str


class PixelNote(EventModel):
    """What the reader of pixels chose for a frame, or overlooked."""

    note: str = Field(description="A short code, such as fallback-window-ct-lung; more may come.")
    frames: PositiveInt = Field(description="How many of the embedded frames have it.")


class EvidenceFrame(EventModel):
    """A frame that weighed most for the predicted class, the strongest first."""

    series_instance_uid: Uid
    sop_instance_uid: Uid
    frame_number: PositiveInt = Field(description="Counts from 1.")
    probability: Probability = Field(description="The frame's own calibrated probability of the predicted class.")
    point_id: UUID = Field(description="Its point in the vector index.")


class SkippedInstance(EventModel):
    """An object of the study that was not embedded, and why."""

    sop_instance_uid: Uid
    reason: Literal["not-an-image", "undecodable", "too-large"]
    detail: str


class StudyDiagnosed(Event):
    """A study was embedded, is searchable, and one task (or none) has judged it. Research use only."""

    event_type: ClassVar[str] = "similis.study.diagnosed.v1"

    task: TaskName = Field(description=f"The task's name, or '{NO_TASK}' if no task takes this study.")
    decision: Decision
    reason: str = Field(description="Why, in plain words.")
    label: str | None = Field(description="The predicted class; null where the decision names none.")
    confidence: Probability | None = Field(description="Calibrated probability of `label`.")
    classes: tuple[ClassScore, ...] = ()
    evidence: tuple[EvidenceFrame, ...] = ()
    frames_embedded: NonNegativeInt
    skipped: tuple[SkippedInstance, ...] = ()
    partial: bool = Field(description="Some image, or some frame, of the study could not be decoded.")
    mixed_patients: bool = False
    modalities: tuple[str, ...] = ()
    manifest_key: str
    backbone_id: str
    head_id: str | None = Field(description="The head's name and hash; null without a task.")
    duration_s: NonNegativeFloat
    notice: Literal["research use only"] = "research use only"
    series: tuple[SeriesScore, ...] = Field(default=(), description="The judged series, each by itself.")
    out_of_distribution: Unfamiliarity | None = Field(
        default=None, description="The distance from the training images, whatever was decided; null if not measured."
    )
    model_card: ModelCardReference | None = None
    timing: StageSeconds | None = None
    frames_failed: tuple[FailedFrame, ...] = Field(
        default=(), description="Frames that could not be decoded while others of their study could."
    )
    pixel_notes: tuple[PixelNote, ...] = Field(
        default=(), description="Windows that were missing, useless or several, and what was taken instead."
    )

    @classmethod
    def identify(
        cls,
        study_instance_uid: str,
        revision: int,
        task: str,
        backbone_id: str,
        head_id: str | None,
        rules: str | None = None,
    ) -> UUID:
        """This event's deterministic id: a new model, or new `rules` by which the task judges, give a new event."""
        parts = [] if rules is None else [rules]
        return ids.event_id(cls.event_type, study_instance_uid, revision, task, backbone_id, head_id or "", *parts)


class Reliability(StrEnum):
    """Whether a map leads chance by more than those of networks with random weights do; no more is checked."""

    CHECKED = "checked"
    NOT_RELIABLE = "not-reliable"
    UNKNOWN = "unknown"


class ResultKind(StrEnum):
    """What a DICOM result is."""

    PARAMETRIC_MAP = "parametric-map"
    SEGMENTATION = "segmentation"
    MEASUREMENT_REPORT = "measurement-report"
    SECONDARY_CAPTURE = "secondary-capture"
    KEY_OBJECT_SELECTION = "key-object-selection"


class FrameReference(EventModel):
    """One frame of a study."""

    series_instance_uid: Uid
    sop_instance_uid: Uid
    frame_number: PositiveInt = Field(le=10**7, description="Counts from 1.")


class Faithfulness(EventModel):
    """Does the map rank the frame's pixels as the model uses them? Beside each figure that of random orders."""

    insertion_auc: float = Field(description="Mean probability while pixels are put in, the highest first; high: good.")
    deletion_auc: float = Field(description="Mean probability while pixels are taken out likewise; low: good.")
    random_insertion_auc: float
    random_deletion_auc: float
    steps: PositiveInt = Field(description="Steps from the first pixel to the last.")


class ResultObject(EventModel):
    """A DICOM object that was made of a map, in the source's study."""

    kind: ResultKind
    sop_class_uid: Uid
    series_instance_uid: Uid
    sop_instance_uid: Uid
    key: str = Field(description="Its archive key.")


class ExplanationMap(EventModel):
    """One saliency map of one frame."""

    series_instance_uid: Uid
    sop_instance_uid: Uid
    frame_number: PositiveInt
    target_label: str
    map_key: str = Field(description="Archive key: float32 .npy, (H, W), signed, at the model's input grid.")
    overlay_key: str = Field(description="Archive key: PNG of the frame with the map over it.")
    record_key: str = Field(description="Archive key: JSON with everything that reproduces the map.")
    method: str
    mode: str
    seed: NonNegativeInt
    mask_count: PositiveInt = Field(description="N, by which ViT-CX divides its map; 1 for other methods.")
    value_min: float
    value_max: float
    faithfulness: Faithfulness | None = Field(default=None, description="Null if it was not measured.")
    reliability: Reliability = Field(
        default=Reliability.UNKNOWN, description="Whether the map leads chance by more than those of random weights do."
    )
    reliability_reason: str = ""
    objects: tuple[ResultObject, ...] = ()


class StudyExplained(Event):
    """Saliency maps of a diagnosed study are in the archive. Research use only."""

    event_type: ClassVar[str] = "similis.study.explained.v1"

    task: TaskName
    label: str
    maps: tuple[ExplanationMap, ...]
    backbone_id: str
    head_id: str
    duration_s: NonNegativeFloat
    notice: Literal["research use only"] = "research use only"
    request_id: UUID | None = Field(
        default=None, description="The request that asked for these maps; null: the policy."
    )
    frames_failed: tuple[FailedFrame, ...] = Field(default=(), description="Frames of which no map can be made.")
    objects: tuple[ResultObject, ...] = Field(default=(), description="DICOM objects that are not of a single map.")

    @classmethod
    def identify(cls, diagnosed: StudyDiagnosed, variant: str, request_id: UUID | None = None) -> UUID:
        """This event's deterministic id. `variant`: the method, its mode and what else shapes the maps."""
        parts = [] if request_id is None else [str(request_id)]
        return ids.event_id(cls.event_type, str(diagnosed.event_id), variant, *parts)


class ExplanationRequested(Event):
    """Somebody asks for maps that the task's policy does not make by itself."""

    event_type: ClassVar[str] = "similis.explanation.requested.v1"

    revision: PositiveInt = Field(le=10**9, description="Of the diagnosis.")
    task: TaskName
    diagnosis_event_id: UUID = Field(description="The diagnosis to explain.")
    label: str | None = Field(default=None, max_length=64, description="The class to explain; null: the predicted one.")
    frames: tuple[FrameReference, ...] = Field(default=(), max_length=16, description="Empty: the evidence frames.")

    @classmethod
    def identify(cls, diagnosed: StudyDiagnosed, label: str | None, frames: Sequence[FrameReference]) -> UUID:
        """This event's deterministic id: asking again for the same, in whatever order, is the same request."""
        asked = sorted({f"{frame.sop_instance_uid}#{frame.frame_number}" for frame in frames})
        return ids.event_id(cls.event_type, str(diagnosed.event_id), label or "", *asked)


def now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


EVENT_CLASSES: Final[tuple[type[Event], ...]] = (StudyReceived, StudyDiagnosed, StudyExplained, ExplanationRequested)
