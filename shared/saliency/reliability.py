"""Is a map's range clearly above what a network with random weights draws? Needs no torch.

The order of a ViT-CX map's pixels says little of that: random weights give maps that correlate .85 to .93 with the
trained network's, since masks follow the image. The range between its lowest and highest value does tell something:
how far the probability hangs on what is shown. So a version of a task may keep the ranges of maps that random networks
of the same build draw, in `explain-reference.json` beside its head, and a map whose range is not clearly above them
is "not reliable" (after Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018).

The check is coarse: docs/explanations.md has how far the ranges of trained and of random networks overlap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigurationError
from shared.events import Reliability
from shared.vision.transform import Letterbox

REFERENCE_FILE: Final = "explain-reference.json"
FACTOR: Final = 1.25
"""Clearly above: more than so many times the references' 95th percentile."""

_QUANTILES: Final = (0.5, 0.95, 0.99, 1.0)
_LIMITING: Final = 0.95


class ExplainReference(BaseModel):
    """What `explain-reference.json` holds. Research use only.

    Attributes:
        head_id: The head that it stands beside.
        head_sha256: Of that head's file; None if it did not come from one.
        backbone_id: The trained backbone whose build was taken.
        architecture: That build in words.
        method: Of the maps, such as vit-cx.
        mode: How they were run.
        parameters: Of the method; a map made with others cannot be compared.
        weights: How the random weights were drawn.
        images: What the maps were made of.
        seed: Of weights, images and noise.
        ranges: Of each map, ascending, as `map_range` gives.
        quantiles: Of the ranges, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["similis-explain-reference-1"] = "similis-explain-reference-1"
    notice: Literal["research use only"] = "research use only"
    head_id: str
    head_sha256: str | None
    backbone_id: str
    architecture: str
    method: str
    mode: str
    parameters: dict[str, Any]
    weights: str
    images: str
    seed: int
    ranges: tuple[float, ...] = Field(min_length=1)
    quantiles: dict[str, float]

    @classmethod
    def of(cls, ranges: Sequence[float], **facts: Any) -> ExplainReference:
        """A reference with the quantiles of its ranges."""
        kept = tuple(sorted(round(float(value), 6) for value in ranges))
        quantiles = {f"{share:g}": _quantile(kept, share) for share in _QUANTILES}
        # Through JSON once, so that what is written and what is read back are equal.
        return cls(ranges=kept, quantiles=quantiles, **json.loads(json.dumps(facts)))

    @property
    def n(self) -> int:
        """How many maps."""
        return len(self.ranges)

    @property
    def limit(self) -> float:
        """What a map's range must exceed."""
        return FACTOR * _quantile(self.ranges, _LIMITING)


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


def read_reference(path: Path) -> ExplainReference | None:
    """The reference in a version's folder; None if there is none.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return ExplainReference.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{path} is no random-weight reference: {error}") from error


def write_reference(path: Path, reference: ExplainReference) -> None:
    """Write `explain-reference.json`; it is there as a whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(reference.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


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


def _quantile(ranges: Sequence[float], share: float) -> float:
    """The smallest of the ranges that so many do not exceed: no interpolation between few values."""
    return float(np.quantile(ranges, share, method="inverted_cdf"))
