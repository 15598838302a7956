"""What a version of a task keeps of maps that networks with random weights draw; `saliency.reliability` compares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigurationError

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


def _quantile(ranges: Sequence[float], share: float) -> float:
    """The smallest of the ranges that so many do not exceed: no interpolation between few values."""
    return float(np.quantile(ranges, share, method="inverted_cdf"))
