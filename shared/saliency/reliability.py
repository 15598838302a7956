"""Does a map lead over chance by more than the maps of networks with random weights do? Needs no torch.

The order of a ViT-CX map's pixels says little of that: random weights give maps that correlate .85 to .93 with the
trained network's, since masks follow the image. What networks with random weights cannot do is lose their answer with
what the map marks, and win it back with that, sooner than with places drawn at random. So a version of a task may keep
by how much their maps lead over chance, in `explain-reference.json` beside its head, and a map that does not lead by
clearly more is "not reliable" (after Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).

docs/explanations.md has what else was tried, and how often right maps are flagged and random ones are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.events import Reliability
from shared.vision.explain_reference import LEAST_MAPS, ExplainReference
from shared.vision.transform import Letterbox


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one map.

    Attributes:
        reliability: `CHECKED` says that this one check was passed, not that the map is right.
        reason: In plain words.
        lead: Of the map, see `Faithfulness.lead`; None if it was not measured.
        limit: What it must exceed; None if unknown.
        flat: What the map's range must reach; None if unknown.
    """

    reliability: Reliability
    reason: str
    lead: float | None
    limit: float | None
    flat: float | None = None

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


def judge_map(
    lead: float | None,
    range_: float,
    reference: ExplainReference | None,
    *,
    head_id: str,
    method: str,
    parameters: Mapping[str, Any],
    faithfulness: Mapping[str, Any],
) -> Verdict:
    """Compare a map's lead over chance, and its range, with the task version's reference.

    Args:
        lead: See `Faithfulness.lead`; None: it was not measured.
        range_: See `map_range`.
        reference: Of the task version; None if it has none that can be read.
        head_id: Of the explained head.
        method: Of the map.
        parameters: Of the map; only those that the reference names are compared.
        faithfulness: How the lead was measured, likewise.
    """
    if reference is None:
        return _unknown("this version of the task has no random-weight reference of today's format", lead)
    if lead is None:
        return _unknown("insertion and deletion were not measured", lead)
    if problem := _mismatch(reference, head_id, method, parameters, faithfulness):
        return _unknown(f"the random-weight reference does not fit: {problem}", lead)
    limit, flat = reference.limit, reference.flat
    if limit is None or flat is None:
        return _unknown(f"the reference has {reference.n} maps, and {LEAST_MAPS} are the fewest that tell", lead)
    beside = (
        f"the map leads chance by {lead:.2f}; of {reference.n} networks with random weights, "
        f"{reference.reached_by(lead)} lead by as much"
    )
    if lead <= limit:
        told = f"{beside}, and more than {limit:.2f} is asked for: what it marks may mean nothing"
        return Verdict(Reliability.NOT_RELIABLE, told, lead, limit, flat)
    if range_ < flat:
        told = (
            f"{beside}, but it spans {range_:.4f} in probability, less than {flat:.4f}, which nearly all of theirs do"
        )
        return Verdict(Reliability.NOT_RELIABLE, f"{told}: it is flat", lead, limit, flat)
    told = f"{beside}. That is passed; it does not prove the map right"
    return Verdict(Reliability.CHECKED, told, lead, limit, flat)


def _unknown(reason: str, lead: float | None) -> Verdict:
    return Verdict(Reliability.UNKNOWN, reason, lead, None)


def _mismatch(
    reference: ExplainReference,
    head_id: str,
    method: str,
    parameters: Mapping[str, Any],
    faithfulness: Mapping[str, Any],
) -> str | None:
    if reference.head_id != head_id:
        return f"it is of the head {reference.head_id}"
    if reference.method != method:
        return f"it is of {reference.method} maps"
    for kept, own in ((reference.parameters, parameters), (reference.faithfulness, faithfulness)):
        for name, value in kept.items():
            if _plain(own.get(name)) != _plain(value):
                return f"it was made with {name} {value}"
    return None


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value
