"""LeGrad (Bousselham, Boggust, Chaybouti, Strobelt, Kuehne: ICCV 2025, arXiv 2404.03214): one backward pass.

For each block l, s_l is the class's logit had the classifier nothing but that block's tokens:

    E_l = mean over heads and rows of max(0, d s_l / d A_l), at the patches
    map = mean over blocks of E_l

Not normalised here. Our heads read up to three blocks at once; for s_l the tokens of block l, after the last
LayerNorm, take the place of all of them.
"""

from __future__ import annotations

from typing import Final

import torch

from shared.saliency.attention import attended
from shared.saliency.forwards import ExplainedModel
from shared.saliency.maps import Request, SaliencyMap, chosen, finite
from shared.saliency.upsampling import Upsampling

METHOD: Final = "legrad"


@torch.inference_mode(False)
@torch.enable_grad()
def legrad(model: ExplainedModel, request: Request) -> SaliencyMap:
    """The map: at least 0; bilinear between patches.

    Raises:
        NotExplainableError: a probability is not finite.
    """
    x = request.x.clone()
    with torch.no_grad():
        p_x = finite(request.head(model.clean(x[None])))[0]
    c = chosen(p_x, request.target)
    # The weights are frozen: the graph starts at the image.
    seen = attended(model, x.requires_grad_())
    total = torch.zeros(seen.attentions[0].shape[-1], dtype=torch.float64, device=x.device)
    for attention, tokens in zip(seen.attentions, seen.tokens, strict=True):
        s = request.head.logits(model.read(tokens))[0, c]
        (gradient,) = torch.autograd.grad(s, attention, retain_graph=True)
        total += gradient[0].double().clamp(min=0).mean(dim=(0, 1))
    grid = model.grid(x)
    shares = (total / len(seen.attentions))[model.prefix_tokens :].reshape(grid).cpu()
    return SaliencyMap(
        values=Upsampling.between(grid, (x.shape[1], x.shape[2]))(shares).float().numpy(),
        method=METHOD,
        mode="exact-float32",
        seed=request.seed,
        target=c,
        probability=float(p_x[c]),
        forwards=2,
    )
