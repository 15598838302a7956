"""Attention rollout (Abnar, Zuidema: ACL 2020, arXiv 2005.00928): cheap, and the same for every class.

    A^_l = 1/2 A_l + 1/2 I, with A_l the mean over heads and I for the residual path
    R = A^_L ... A^_1, and the map is R's row of CLS at the patches

Heads that read more than CLS are explained as if they read CLS alone.
"""

from __future__ import annotations

from typing import Final

import torch

from shared.saliency.attention import attended
from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Request, SaliencyMap, chosen, finite
from shared.saliency.upsampling import Upsampling

METHOD: Final = "rollout"


@torch.no_grad()
def rollout(model: ExplainedModel, request: Request) -> SaliencyMap:
    """The map: shares of attention, at least 0; bilinear between patches.

    Raises:
        NotExplainableError: a probability is not finite.
    """
    x = request.x
    p_x = finite(request.head(model.clean(x[None])))[0]
    c = chosen(p_x, request.target)
    attentions = attended(model, x).attentions
    rolled = torch.eye(attentions[0].shape[-1], dtype=torch.float64, device=x.device)
    for attention in attentions:
        mean = attention[0].double().mean(dim=0)
        rolled = (0.5 * mean + 0.5 * torch.eye(len(mean), dtype=torch.float64, device=x.device)) @ rolled
    grid = model.grid(x)
    shares = rolled[0, model.prefix_tokens :].reshape(grid).cpu()
    return SaliencyMap(
        values=Upsampling.between(grid, (x.shape[1], x.shape[2]))(shares).float().numpy(),
        method=METHOD,
        mode="exact-float32",
        seed=request.seed,
        target=c,
        probability=float(p_x[c]),
        forwards=2,
    )
