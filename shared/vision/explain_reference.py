"""What a version of a task keeps of maps that networks with random weights draw; `saliency.reliability` compares."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import ConfigurationError

REFERENCE_FILE: Final = "explain-reference.json"
PASSING_SHARE: Final = 0.05
"""Of random networks' maps, at most so many may pass on average."""
LEAST_MAPS: Final = math.ceil(1 / PASSING_SHARE) - 1
"""With fewer references no map can be told from theirs at that share."""

_FORMAT: Final = "similis-explain-reference-2"
_OLD_FORMATS: Final = frozenset({"similis-explain-reference-1"})
_QUANTILES: Final = (0.5, 0.95, 1.0)

log = logging.getLogger(__name__)


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RandomMap(_Kept):
    """One map of a network with random weights.

    Attributes:
        lead: Over chance, as `Faithfulness.lead`.
        range: In probability, as `map_range` gives.
    """

    lead: float
    range: float


class ExplainReference(_Kept):
    """What `explain-reference.json` holds. Research use only.

    Attributes:
        head_id: The head that it stands beside.
        head_sha256: Of that head's file; None if it did not come from one.
        backbone_id: The trained backbone whose build was taken.
        architecture: That build in words.
        method: Of the maps, such as vit-cx.
        mode: How they were run.
        parameters: Of the method; a map made with others cannot be compared.
        faithfulness: How insertion and deletion were measured; what was measured otherwise cannot be compared.
        weights: How the random weights were drawn.
        images: What the maps were made of.
        seed: Of weights, images and noise.
        maps: Each map's figures, those of the least lead first.
        quantiles: Of each figure, for the reader.
    """

    format: Literal["similis-explain-reference-2"] = _FORMAT
    notice: Literal["research use only"] = "research use only"
    head_id: str
    head_sha256: str | None
    backbone_id: str
    architecture: str
    method: str
    mode: str
    parameters: dict[str, Any]
    faithfulness: dict[str, Any]
    weights: str
    images: str
    seed: int
    maps: tuple[RandomMap, ...] = Field(min_length=1)
    quantiles: dict[str, dict[str, float]]

    @classmethod
    def of(cls, maps: Sequence[RandomMap], **facts: Any) -> ExplainReference:
        """A reference with the quantiles of its maps."""
        rounded = [RandomMap(lead=round(one.lead, 4), range=round(one.range, 6)) for one in maps]
        kept = tuple(sorted(rounded, key=lambda one: (one.lead, one.range)))
        quantiles = {
            name: {f"{share:g}": _quantile([getattr(one, name) for one in kept], share) for share in _QUANTILES}
            for name in RandomMap.model_fields
        }
        # Through JSON once, so that what is written and what is read back are equal.
        return cls(maps=kept, quantiles=quantiles, **json.loads(json.dumps(facts)))

    @property
    def n(self) -> int:
        """How many maps."""
        return len(self.maps)

    @property
    def limit(self) -> float | None:
        """The lead that a map must exceed; None if there are too few references to say.

        The least one that at most PASSING_SHARE (n + 1) - 1 of the references reach. Were a map drawn as they were,
        it would exceed this with a probability of at most PASSING_SHARE, whatever their distribution: a conformal
        p-value (Vovk, Gammerman, Shafer 2005).
        """
        if self.n < LEAST_MAPS:
            return None
        return self.maps[self.n - self._few].lead

    @property
    def flat(self) -> float | None:
        """The range that a map must reach: as few random maps as may pass the limit span less; None as for `limit`."""
        if self.n < LEAST_MAPS:
            return None
        return sorted(one.range for one in self.maps)[self._few - 1]

    def reached_by(self, lead: float) -> int:
        """How many of the random networks' maps lead by at least as much."""
        return sum(one.lead >= lead for one in self.maps)

    @property
    def _few(self) -> int:
        return math.floor(PASSING_SHARE * (self.n + 1) + 1e-9)


def read_reference(path: Path) -> ExplainReference | None:
    """The reference in a version's folder; None if there is none, or one of an earlier format.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        told = json.loads(data)
        if isinstance(told, dict) and told.get("format") in _OLD_FORMATS:
            log.warning(
                "%s is of an earlier format: maps are marked unknown until `similis evaluate explain TASK "
                "--reference-maps N` makes it anew",
                path,
            )
            return None
        return ExplainReference.model_validate_json(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is no random-weight reference: {error}") from error


def write_reference(path: Path, reference: ExplainReference) -> None:
    """Write `explain-reference.json`; it is there as a whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(reference.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that so many do not exceed: no interpolation between few values."""
    return float(np.quantile(values, share, method="inverted_cdf"))
