"""How far a map can be trusted: its faithfulness, beside chance and beside maps of networks with random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from services.explainer.ports import FrameExplanation, FrameRequest, Trust
from shared import events
from shared.pixels.frame import Frame
from shared.saliency.faithfulness import Faithfulness, FaithfulnessParameters, measure_faithfulness
from shared.saliency.heads import Scorer
from shared.saliency.reliability import Verdict, judge_map, map_range
from shared.vision.heads import LinearHead
from shared.vision.tasks import Task


@dataclass(frozen=True, slots=True)
class MeasuredTrust:
    """See `ports.TrustMeasure`.

    Attributes:
        model_input: A frame as the model sees it, (3, S, S).
        scorer: A head's probabilities.
        faithfulness: How it is measured; None: not at all.
        progress: Called after each forward pass; what it raises ends the measurement.
    """

    model_input: Callable[[Frame], Tensor]
    scorer: Callable[[LinearHead], Scorer]
    faithfulness: FaithfulnessParameters | None
    progress: Callable[[], None] = lambda: None

    def variant(self, task: Task) -> str:
        """See `ports.TrustMeasure`."""
        reference = "" if task.explain_reference is None else task.explain_reference.model_dump_json()
        measured = self.faithfulness and replace(self.faithfulness, batch_size=1)  # it does not change the figures
        return f"{measured}|{hashlib.sha256(reference.encode()).hexdigest()[:16]}"

    def __call__(self, request: FrameRequest, made: FrameExplanation, task: Task) -> Trust:
        """See `ports.TrustMeasure`."""
        measured = None if self.faithfulness is None else self._faithfulness(request, made, self.faithfulness)
        spans = map_range(made.values, int(made.scale), made.letterbox)
        found = self._reliability(made, measured, spans, task)
        facts = {"lead": found.lead, "lead_limit": found.limit, "range": spans, "range_least": found.flat}
        return Trust(
            reliability=found.reliability,
            reason=found.reason,
            facts=facts if measured is None else {**facts, "faithfulness": measured.facts()},
            faithfulness=None if measured is None else _in_event(measured),
        )

    def _reliability(self, made: FrameExplanation, measured: Faithfulness | None, spans: float, task: Task) -> Verdict:
        return judge_map(
            None if measured is None else measured.lead,
            spans,
            task.explain_reference,
            head_id=task.head.id,
            method=made.method,
            parameters=made.parameters,
            faithfulness={} if measured is None else asdict(measured.parameters),
        )

    def _faithfulness(
        self, request: FrameRequest, made: FrameExplanation, parameters: FaithfulnessParameters
    ) -> Faithfulness:
        score = self.scorer(request.head)

        def scored(pixels: Tensor) -> Tensor:
            probabilities = score(pixels)
            self.progress()
            return probabilities

        return measure_faithfulness(
            scored,
            self.model_input(request.frame),
            made.values,
            request.head.labels.index(request.label),
            seed=request.seed,
            content=made.letterbox,
            parameters=parameters,
        )


def _in_event(measured: Faithfulness) -> events.Faithfulness:
    return events.Faithfulness(
        insertion_auc=measured.insertion,
        deletion_auc=measured.deletion,
        random_insertion_auc=measured.insertion_by_chance,
        random_deletion_auc=measured.deletion_by_chance,
        steps=len(measured.parameters.shares) - 1,
    )
