"""What the explainer needs from outside, besides the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import NotExplainableError
from shared.events import Faithfulness, Reliability, StudyExplained
from shared.pixels.frame import Frame
from shared.vision.heads import LinearHead
from shared.vision.tasks import Task
from shared.vision.transform import Letterbox

VIT_CX: Final = "vit-cx"


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """A frame to explain.

    Attributes:
        frame: The frame.
        head: The head whose answer to explain.
        label: The class to explain, one of the head's.
        seed: Of the noise, below 2^32.
    """

    frame: Frame
    head: LinearHead
    label: str
    seed: int


@dataclass(frozen=True, slots=True)
class FrameExplanation:
    """Why a head gives a frame a class.

    Attributes:
        values: float32 (H, W), the map on the model's input grid; ViT-CX's is signed.
        mask_count: N in the papers; 0 for methods without masks.
        probability: The target's probability on the undisturbed frame.
        letterbox: Where the frame lies on the grid.
        parameters: What else reproduces the map, for its record.
        method: The algorithm's name.
        mode: How it was run.
        forwards: Images that went through the model.
    """

    values: NDArray[np.float32]
    mask_count: int
    probability: float
    letterbox: Letterbox
    parameters: dict[str, Any]
    method: str
    mode: str
    forwards: int

    @property
    def scale(self) -> float:
        """What the map is multiplied by to be shown: N for ViT-CX, whose N-fold map is a mean score."""
        return float(self.mask_count) if self.method == VIT_CX else 1.0


@dataclass(frozen=True, slots=True)
class Trust:
    """How far a map can be trusted, as far as it was measured.

    Attributes:
        reliability: Of its lead over chance, beside maps of random weights.
        reason: In plain words.
        facts: What it was measured by, for the record.
        faithfulness: None if it was not measured.
    """

    reliability: Reliability
    reason: str
    facts: dict[str, Any]
    faithfulness: Faithfulness | None = None


class TrustMeasure(Protocol):
    """Measures maps. A call costs as many forward passes as a map does."""

    def variant(self, task: Task) -> str:
        """What shapes the outcome for a task, besides the map."""

    def __call__(self, request: FrameRequest, made: FrameExplanation, task: Task) -> Trust:
        """What can be said of a map. The same arguments give the same.

        Raises:
            NotExplainableError: the classifier gives scores that are not finite.
        """


class FrameExplainer(Protocol):
    """Makes saliency maps. One call takes seconds to minutes; calls from several threads share one queue."""

    @property
    def backbone_id(self) -> str:
        """The backbone whose decisions it explains."""

    @property
    def method(self) -> str:
        """The algorithm's name."""

    @property
    def mode(self) -> str:
        """How the algorithm is run."""

    @property
    def variant(self) -> str:
        """Everything that shapes a map besides frame, head, label and seed: method, mode, parameters."""

    def explain(self, frame: Frame, head: LinearHead, label: str, seed: int) -> FrameExplanation:
        """Map what in `frame` speaks for `label`. The same arguments give the same map.

        Raises:
            NotExplainableError: no map can be made of this frame.
        """

    def explain_all(self, requests: Sequence[FrameRequest]) -> list[FrameExplanation | NotExplainableError]:
        """The maps of several frames, or why there is none; no dearer each than one. Each as `explain` gives it."""


class Outbox(Protocol):
    """Results on their way to other systems."""

    def add(self, explained: StudyExplained) -> None:
        """Note durably that the DICOM objects of `explained` are to be sent, if any destination wants them.

        Raises:
            ArchiveUnavailableError: the note cannot be stored.
        """


class NoOutbox:
    """Nobody wants results."""

    def add(self, explained: StudyExplained) -> None:
        """Do nothing."""
