"""What is known of one explained frame, for its DICOM results. Plain values: nothing here reads or writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from shared.events import ClassScore, CodedMeaning, Faithfulness, Reliability

SCHEME = "99SIMILIS"


@dataclass(frozen=True, slots=True)
class ExplainedFrame:
    """One saliency map and what it belongs to.

    Attributes:
        diagnosis_event_id: Of the diagnosis that is explained: other revisions and models have other ids.
        diagnosed_at: `occurred_at` of that event, aware. It dates every result, so that a repeat is the same.
        task: The task's name.
        label: The explained class.
        finding: The class's code; None gives it a private code (scheme 99SIMILIS).
        frame_probability: The class's probability on this frame.
        study_probability: The class's calibrated probability for the study; None if there is none.
        classes: Every class with its probability for the study.
        backbone_id: Name, revision and transform of the backbone.
        head_id: Name and hash of the head.
        hashes: Names to SHA-256 (hex) of what else made the map: `head`, `model card`.
        method: Such as vit-cx.
        mode: How the method was run.
        seed: Of its noise.
        mask_count: Cluster masks, N in the paper; None for methods without masks.
        frame_number: The explained frame, from 1.
        rank: Its place among the explained frames of the diagnosis, from 1.
        software_version: Of Similis.
        reliability: Whether the map leads chance by more than those of random weights.
        reliability_reason: Why, in plain words.
        faithfulness: None if it was not measured.
        parameters: What else is known of how the map was made, outcomes too, by name: for the report, in no UID.
        variant: Method, mode and parameters as they were set, and no outcome: one string, the same wherever it runs.
        request_id: Of the request that asked for the map; None: the task's policy did.
    """

    diagnosis_event_id: UUID
    diagnosed_at: datetime
    task: str
    label: str
    finding: CodedMeaning | None
    frame_probability: float
    study_probability: float | None
    classes: tuple[ClassScore, ...]
    backbone_id: str
    head_id: str
    method: str
    mode: str
    seed: int
    mask_count: int | None
    frame_number: int
    rank: int
    software_version: str
    reliability: Reliability
    reliability_reason: str
    faithfulness: Faithfulness | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)
    variant: str = ""
    request_id: UUID | None = None

    def __post_init__(self) -> None:
        """Refuse what no object could be dated, numbered or measured by."""
        if self.diagnosed_at.tzinfo is None:
            raise ValueError("diagnosed_at has no time zone")
        if self.frame_number < 1 or self.rank < 1:
            raise ValueError("frames and ranks count from 1")
        figures = [self.frame_probability, *(c.probability for c in self.classes)]
        if (measured := self.faithfulness) is not None:
            figures += [measured.insertion_auc, measured.deletion_auc]
            figures += [measured.random_insertion_auc, measured.random_deletion_auc]
        if not all(map(math.isfinite, figures)):
            raise ValueError("a figure is not finite")
