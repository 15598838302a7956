"""Grad-CAM on the patch tokens of a DINOv2 (Selvaraju et al., ICCV 2017), for comparison.

    w_k = mean over patches of d logit_c / d A_k          map = max(0, sum_k w_k A_k)

A are the tokens after two thirds of the blocks: all that our heads read comes after them. At the last block, where
Grad-CAM is mostly taken, only the class token's share of the decision would be left.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Request, chosen, finite
from shared.saliency.upsampling import Upsampling
from shared.vision.features import PATCH_BLOCKS

METHOD: Final = "grad-cam"


@torch.inference_mode(False)
@torch.enable_grad()
def grad_cam(model: ExplainedModel, request: Request) -> NDArray[np.float32]:
    """float32 (H, W), at least 0; bilinear between patches.

    Raises:
        NotExplainableError: a probability is not finite.
    """
    x = request.x.clone().requires_grad_()
    blocks = model.backbone.encoder.layer
    seen: list[torch.Tensor] = []
    hook = blocks[round(len(blocks) * PATCH_BLOCKS) - 1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(_tokens(output))
    )
    try:
        rows = model.clean(x[None])
    finally:
        hook.remove()
    with torch.no_grad():
        c = chosen(finite(request.head(rows))[0], request.target)
    (tokens,) = seen
    (gradient,) = torch.autograd.grad(request.head.logits(rows)[0, c], tokens)
    A, dA = (part[0, model.prefix_tokens :].detach().double().cpu() for part in (tokens, gradient))  # noqa: N806
    grid = model.grid(x)
    weighted = (A @ dA.mean(dim=0)).clamp(min=0).reshape(grid)
    values: NDArray[np.float32] = Upsampling.between(grid, (x.shape[1], x.shape[2]))(weighted).float().numpy()
    return values


def _tokens(output: Any) -> torch.Tensor:
    """Of a block's output, which some versions of the library wrap in a tuple."""
    tokens: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return tokens
