"""Linear probes on frozen features, kept as safetensors with their labels, temperature and backbone id.

A head reads F joined features of one frame, see `features.Features.joined`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from shared.errors import WeightsError
from shared.vision.aggregate import softmax

Floats = NDArray[np.float32]
_FORMAT: Final = "similis-linear-head-1"


@dataclass(frozen=True, slots=True)
class Familiarity:
    """What standardised features looked like in training: a Gaussian with a reduced covariance.

    Its squared distance is the probabilistic-PCA form of Mahalanobis's (Tipping & Bishop 1999, eq. 7):
    K principal directions with their own spread and one spread for all the rest, divided by the number
    of features, so that a frame like the training's comes near 1.

    Attributes:
        components: (K, F) orthonormal rows.
        scale: (K,) standard deviation along each.
        residual_scale: Standard deviation of each remaining dimension.
    """

    components: Floats
    scale: Floats
    residual_scale: float

    def distance(self, standardised: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) distances of (N, F) standardised features."""
        features = np.asarray(standardised, np.float64)
        along = features @ self.components.T.astype(np.float64)
        beside = np.maximum((features**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        squared = ((along / self.scale) ** 2).sum(axis=1) + beside / self.residual_scale**2
        distance: NDArray[np.float64] = np.sqrt(squared / features.shape[1])
        return distance


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear probe: logits = ((joined - feature_mean) / feature_scale) @ weight.T + bias.

    Attributes:
        task: The task's name.
        labels: C class labels.
        weight: (C, F).
        bias: (C,).
        feature_mean: (F,).
        feature_scale: (F,), positive.
        temperature: Positive; fitted on study scores.
        backbone_id: The backbone whose features it reads.
        familiarity: If set, tells features unlike the training's.
        id: `<task>@<first 12 of the sha256 of all the above>`.

    Raises:
        WeightsError: shapes disagree or a value is not finite.
    """

    task: str
    labels: tuple[str, ...]
    weight: Floats
    bias: Floats
    feature_mean: Floats
    feature_scale: Floats
    temperature: float
    backbone_id: str
    familiarity: Familiarity | None = None
    id: str = field(init=False)

    def __post_init__(self) -> None:
        features = self.feature_mean.shape[0] if self.feature_mean.ndim == 1 else 0
        classes = len(self.labels)
        expected: dict[str, tuple[int, ...]] = {
            "weight": (classes, features),
            "bias": (classes,),
            "feature_mean": (features,),
            "feature_scale": (features,),
        }
        arrays = self._arrays()
        if self.familiarity is not None:
            kept = len(self.familiarity.scale)
            expected |= {"ood_components": (kept, features), "ood_scale": (kept,)}
        for name, shape in expected.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise WeightsError(f"head of {self.task}: {name} is {arrays[name].shape} or not finite, not {shape}")
        if not (classes > 1 and features > 0 and np.isfinite(self.temperature) and self.temperature > 0):
            raise WeightsError(f"head of {self.task}: needs two classes, features and a positive temperature")
        if not (self.feature_scale > 0).all():
            raise WeightsError(f"head of {self.task}: feature_scale must be positive")
        object.__setattr__(self, "id", f"{self.task}@{self._digest()[:12]}")

    def standardised(self, joined: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, F) features in training's units."""
        centred: NDArray[np.float64] = (np.asarray(joined, np.float64) - self.feature_mean) / self.feature_scale
        return centred

    def logits(self, joined: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, C) uncalibrated logits of (N, F) joined features."""
        logits: NDArray[np.float64] = self.standardised(joined) @ self.weight.T.astype(np.float64) + self.bias
        return logits

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, C) calibrated probabilities: softmax(logits / temperature)."""
        return softmax(np.asarray(logits, np.float64) / self.temperature)

    def distances(self, joined: NDArray[np.floating]) -> NDArray[np.float64] | None:
        """(N,) how unlike the training's each frame is, near 1 for one like it; None if the head cannot tell."""
        return None if self.familiarity is None else self.familiarity.distance(self.standardised(joined))

    def save(self, path: Path) -> None:
        """Write the head as safetensors."""
        save_file(self._arrays(), path, metadata={"head": json.dumps(self._header(), sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> LinearHead:
        """Read a head.

        Raises:
            WeightsError: the file is missing, or is no head.
        """
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                arrays = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
            header = json.loads(metadata["head"])
            if header["format"] != _FORMAT:
                raise WeightsError(f"{path} is a head of format {header['format']}, not {_FORMAT}")
            head = cls(
                task=header["task"],
                labels=tuple(header["labels"]),
                weight=arrays["weight"],
                bias=arrays["bias"],
                feature_mean=arrays["feature_mean"],
                feature_scale=arrays["feature_scale"],
                temperature=float(header["temperature"]),
                backbone_id=header["backbone_id"],
            )
            if "ood_components" not in arrays:
                return head
            return replace(
                head,
                familiarity=Familiarity(
                    arrays["ood_components"], arrays["ood_scale"], float(header["ood_residual_scale"])
                ),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a readable head: {error!r}") from error

    def _arrays(self) -> dict[str, Floats]:
        arrays = {
            "weight": self.weight,
            "bias": self.bias,
            "feature_mean": self.feature_mean,
            "feature_scale": self.feature_scale,
        }
        if self.familiarity is not None:
            arrays |= {"ood_components": self.familiarity.components, "ood_scale": self.familiarity.scale}
        return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}

    def _header(self) -> dict[str, object]:
        header: dict[str, object] = {
            "format": _FORMAT,
            "task": self.task,
            "labels": list(self.labels),
            "temperature": self.temperature,
            "backbone_id": self.backbone_id,
        }
        if self.familiarity is not None:
            header["ood_residual_scale"] = self.familiarity.residual_scale
        return header

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()
