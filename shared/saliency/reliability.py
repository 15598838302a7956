"""Is a map's range clearly above what a network with random weights draws? Needs no torch.

The order of a ViT-CX map's pixels says little of that: random weights give maps that correlate .85 to .93 with the
trained network's, since masks follow the image. The range between its lowest and highest value does tell something:
how far the probability hangs on what is shown. So a version of a task may keep the ranges of maps that random networks
of the same build draw, in `explain-reference.json` beside its head, and a map whose range is not clearly above them
is "not reliable" (after Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).

The check is coarse: docs/explanations.md has how far the ranges of trained and of random networks overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.events import Reliability
from shared.vision.explain_reference import FACTOR, ExplainReference
from shared.vision.transform import Letterbox


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one map.

    Attributes:
        reliability: `CHECKED` says that this one check was passed, not that the map is right.
        reason: In plain words.
        range: Of the map, see `map_range`.
        limit: What it was compared with; None if unknown.
    """

    reliability: Reliability
    reason: str
    range: float
    limit: float | None

    @property
    def is_flagged(self) -> bool:
        """Whether the map must not be shown as a confident one."""
        return self.reliability is Reliability.NOT_RELIABLE


def map_range(values: NDArray[np.float32], mask_count: int = 1, content: Letterbox | None = None) -> float:
    """Highest less lowest value within the frame, in units of the target's probability.

    Args:
        values: (H, W), signed, not normalised.
        mask_count: N for ViT-CX, whose N-fold map is the mean score of the masks that show a pixel; else 1.
        content: Where the frame lies on the map; None: everywhere.
    """
    box = content or Letterbox(0, 0, *values.shape)
    frame = values[box.top : box.top + box.height, box.left : box.left + box.width]
    reached = frame[frame != 0]  # exactly 0 where no mask reaches: no score was seen there
    return float(np.ptp(reached)) * mask_count if reached.size else 0.0


def judge_range(
    found: float,
    reference: ExplainReference | None,
    *,
    head_id: str,
    method: str,
    parameters: Mapping[str, Any],
) -> Verdict:
    """Compare a map's range with the task version's reference.

    Args:
        found: See `map_range`.
        reference: Of the task version; None if it has none.
        head_id: Of the explained head.
        method: Of the map.
        parameters: Of the map; only those that the reference names are compared.
    """
    if reference is None:
        return Verdict(Reliability.UNKNOWN, "this version of the task has no random-weight reference", found, None)
    if problem := _mismatch(reference, head_id, method, parameters):
        return Verdict(Reliability.UNKNOWN, f"the random-weight reference does not fit: {problem}", found, None)
    limit = reference.limit
    beside = (
        f"the map spans {found:.3f} in probability; of {reference.n} networks with random weights, 95 % span at most "
        f"{limit / FACTOR:.3f}"
    )
    if found > limit:
        return Verdict(Reliability.CHECKED, f"{beside}. That is passed; it does not prove the map right", found, limit)
    return Verdict(
        Reliability.NOT_RELIABLE,
        f"{beside}, and {FACTOR:g} times that is asked for: what it marks may mean nothing",
        found,
        limit,
    )


def _mismatch(reference: ExplainReference, head_id: str, method: str, parameters: Mapping[str, Any]) -> str | None:
    if reference.head_id != head_id:
        return f"it is of the head {reference.head_id}"
    if reference.method != method:
        return f"it is of {reference.method} maps"
    for name, value in reference.parameters.items():
        if _plain(parameters.get(name)) != _plain(value):
            return f"it was made with {name} {value}"
    return None


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value
