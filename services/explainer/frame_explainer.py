"""The `FrameExplainer` that runs ViT-CX on the loaded backbone. The one module here that joins torch to a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Final

import torch
from torch import Tensor

from services.explainer import vit_cx
from services.explainer.ports import FrameExplanation
from services.explainer.settings import ExplainerSection
from shared.pixels.frame import Frame
from shared.vision.backbone import Backbone
from shared.vision.heads import LinearHead
from shared.vision.patch_lens import LARGEST, LEAST_COUNT, PatchLens
from shared.vision.transform import IMAGENET_MEAN, IMAGENET_STD, letterbox_box, to_model_input

_MEAN: Final = (0.0, 0.0, 0.0)
_RED, _GREEN, _BLUE = (-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))
_FILLS: Final = {"mean": _MEAN, "black": (_RED, _GREEN, _BLUE)}


class VitCxExplainer:
    """ViT-CX in exact float32, for heads that read the backbone's features, with or without a patch lens."""

    method = vit_cx.METHOD
    mode = vit_cx.MODE

    def __init__(
        self, backbone: Backbone, section: ExplainerSection, *, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        self._backbone = backbone
        self._on_progress = on_progress
        self._fill_name = section.fill
        self._parameters = vit_cx.Parameters(
            delta=section.delta,
            noise_std=section.noise_std,
            fill=_FILLS[section.fill],
            batch_size=backbone.batch_size,
        )

    @property
    def backbone_id(self) -> str:
        """The backbone whose decisions are explained."""
        return self._backbone.id

    def explain(self, frame: Frame, head: LinearHead, label: str, seed: int) -> FrameExplanation:
        """See `ports.FrameExplainer`."""
        size = self._backbone.input_size_px
        height, width = frame.pixels.shape[:2]
        saliency = vit_cx.vit_cx(
            self._backbone.model,
            softmax_scorer(self._backbone, head),
            torch.from_numpy(to_model_input(frame, size)).to(self._backbone.device),
            seed=seed,
            target=head.labels.index(label),
            parameters=self._parameters,
            progress=self._on_progress,
        )
        return FrameExplanation(
            values=saliency.values,
            mask_count=saliency.mask_count,
            probability=saliency.probability,
            letterbox=letterbox_box(height, width, frame.pixel_aspect, size),
            parameters={
                **asdict(self._parameters),
                "fill_name": self._fill_name,
                "feature_maps_dropped": int((saliency.clusters < 0).sum()),
                "score_min": float(saliency.scores.min()),
                "score_max": float(saliency.scores.max()),
                "device": str(self._backbone.device),
                "torch": torch.__version__,
            },
        )


def softmax_scorer(backbone: Backbone, head: LinearHead) -> vit_cx.Scorer:
    """A head's calibrated class probabilities by torch: `LinearHead.probabilities` of `LinearHead.logits`."""
    # The standardisation is folded into the weights, in float64: one product a batch.
    scale = torch.from_numpy(head.feature_scale).double()
    weight = torch.from_numpy(head.weight).double() / scale / head.temperature
    bias = (
        torch.from_numpy(head.bias).double() / head.temperature - weight @ torch.from_numpy(head.feature_mean).double()
    )
    weight, bias = weight.to(backbone.device), bias.to(backbone.device)

    def score(pixels: Tensor) -> Tensor:
        cls, middle, patches = backbone.forward_with_patches(pixels)
        lens = [] if head.lens is None else [lens_figures(head.lens, patches)]
        joined = torch.cat([cls, middle, *lens], dim=1).double()
        return torch.softmax(joined @ weight.T + bias, dim=1).float()

    return score


def lens_figures(lens: PatchLens, patches: Tensor) -> Tensor:
    """`PatchLens.__call__` by torch, float64."""
    weight, bias = (torch.from_numpy(values).to(patches.device) for values in (lens.weight, lens.bias))
    logits = (patches @ weight.T).double() + bias
    margins = logits[..., 1:] - logits[..., :1]
    descending = margins.sort(dim=1, descending=True).values
    means = [descending[:, :count].mean(dim=1) for count in LARGEST]
    counts = torch.log(torch.softmax(logits, dim=2)[..., 1:].sum(dim=1) + LEAST_COUNT)
    return torch.cat([*means, torch.logsumexp(margins, dim=1), counts], dim=1)
