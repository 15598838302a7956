"""The `FrameExplainer` on the loaded backbone: settings and frames in, `shared.saliency`'s maps out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from services.explainer.ports import FrameExplanation, FrameRequest
from services.explainer.settings import ExplainerSection
from shared.errors import NotExplainableError
from shared.pixels.frame import Frame
from shared.saliency.fills import FILLS
from shared.saliency.forwards import encoder_forward
from shared.saliency.heads import Scorer, TorchHead, scorer
from shared.saliency.maps import Outcome, Request
from shared.saliency.methods import map_maker
from shared.saliency.rise import RiseParameters
from shared.saliency.shared_queue import SharedQueue
from shared.saliency.vit_cx import Parameters
from shared.vision.backbone import Backbone
from shared.vision.heads import LinearHead
from shared.vision.transform import letterbox_box, to_model_input


class SaliencyExplainer:
    """Maps by the method and mode of the settings, for heads that read the backbone's features."""

    def __init__(
        self, backbone: Backbone, section: ExplainerSection, *, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        """Load the float32 model; in modes other than exact, run it once."""
        self._backbone, self._fill_name = backbone, section.fill
        fill = FILLS[section.fill]
        self._parameters = Parameters(
            delta=section.delta, noise_std=section.noise_std, fill=fill, max_masks=section.max_masks or None
        )
        self._rise = RiseParameters(masks=section.rise_masks, fill=fill)
        self._maker = map_maker(
            backbone,
            section.method,
            mode=section.mode,
            parameters=self._parameters,
            rise=self._rise,
        )
        self._queue = SharedQueue(self._maker, on_progress)

    @property
    def backbone_id(self) -> str:
        """The backbone whose decisions are explained."""
        return self._backbone.id

    @property
    def method(self) -> str:
        """The algorithm's name."""
        return self._maker.method

    @property
    def mode(self) -> str:
        """How the algorithm is run."""
        return self._maker.mode

    @property
    def variant(self) -> str:
        """See `ports.FrameExplainer`."""
        own = {"vit-cx": self._parameters, "rise": self._rise}.get(self.method)
        return "|".join((self.method, self.mode, repr(own)))

    def explain(self, frame: Frame, head: LinearHead, label: str, seed: int) -> FrameExplanation:
        """See `ports.FrameExplainer`."""
        (outcome,) = self.explain_all([FrameRequest(frame, head, label, seed)])
        if isinstance(outcome, NotExplainableError):
            raise outcome
        return outcome

    def explain_all(self, requests: Sequence[FrameRequest]) -> list[FrameExplanation | NotExplainableError]:
        """See `ports.FrameExplainer`."""
        heads = {request.head.id: TorchHead(request.head, self._backbone.device) for request in requests}
        outcomes = self._queue.explain(
            [
                Request(
                    self.model_input(request.frame),
                    heads[request.head.id],
                    request.seed,
                    request.head.labels.index(request.label),
                )
                for request in requests
            ]
        )
        return [self._explanation(request, outcome) for request, outcome in zip(requests, outcomes, strict=True)]

    def model_input(self, frame: Frame) -> Tensor:
        """(3, S, S) of a frame, normalised, on the backbone's device."""
        return torch.from_numpy(to_model_input(frame, self._backbone.input_size_px)).to(self._backbone.device)

    def scorer(self, head: LinearHead) -> Scorer:
        """A head's probabilities by the fast forward: what measures a map's faithfulness."""
        return scorer(encoder_forward(self._backbone), TorchHead(head, self._backbone.device))

    def _explanation(self, request: FrameRequest, outcome: Outcome) -> FrameExplanation | NotExplainableError:
        if isinstance(outcome, NotExplainableError):
            return outcome
        frame = request.frame
        height, width = frame.pixels.shape[:2]
        scores: dict[str, Any] = (
            {"score_min": float(outcome.scores.min()), "score_max": float(outcome.scores.max())}
            if outcome.mask_count
            else {}
        )
        return FrameExplanation(
            values=outcome.values,
            mask_count=outcome.mask_count,
            probability=outcome.probability,
            letterbox=letterbox_box(height, width, frame.pixel_aspect, self._backbone.input_size_px),
            parameters={
                **outcome.facts,
                **scores,
                "fill_name": self._fill_name,
                "device": str(self._backbone.device),
                "torch": torch.__version__,
            },
            method=outcome.method,
            mode=outcome.mode,
            forwards=outcome.forwards,
        )
