"""How exactly a map is worked out; docs/explainer.md has what each mode was seen to change.

    exact      both images of each mask, by the float32 model itself: the published algorithm
    two-pass   both, by the fastest forward in the backbone's precision, see `forwards`
    adaptive   the first image of each mask, and second ones as long as they may matter, see `second_passes`
    one-pass   the first image of each mask alone

The clean pass, which gives features and clusters, is the float32 model's in all of them: masks are the same.
The precision is the backbone's own, SIMILIS_VISION__PRECISION: bfloat16 where the hardware gains by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shared.saliency.forwards import Forward, fastest_forward, hugging_face_forward
from shared.saliency.vit_cx import Seconds
from shared.vision.backbone import Backbone

ModeName = Literal["auto", "exact", "two-pass", "adaptive", "one-pass"]

AUTO: Final = "adaptive"
"""The fastest whose maps keep a Pearson correlation of at least .999 with the exact ones on the phantom set."""

FAST_MODES: Final[dict[str, Seconds]] = {"two-pass": "all", "adaptive": "needed", "one-pass": "none"}
"""The modes by the fast forward, and which second images each runs."""


@dataclass(frozen=True)
class Mode:
    """A way of running masked images.

    Attributes:
        name: What results carry, such as exact-float32 or adaptive-bf16.
        forward: Runs masked images.
        seconds: Which second images ViT-CX runs.
    """

    name: str
    forward: Forward
    seconds: Seconds


def mode_of(wanted: ModeName, backbone: Backbone) -> Mode:
    """The mode on this backbone. Loads the float32 model and runs it, but for exact."""
    chosen = AUTO if wanted == "auto" else wanted
    if chosen == "exact":
        return Mode("exact-float32", hugging_face_forward(backbone), "all")
    forward, precision = fastest_forward(backbone)
    return Mode(f"{chosen}-{precision}", forward, FAST_MODES[chosen])
