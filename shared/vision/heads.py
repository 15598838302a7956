"""Linear probes on frozen features, kept as safetensors with their labels, temperature and backbone id.

A head reads F features of one frame, see `features.Features.joined` and `patch_lens.PatchLens`.
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
from safetensors.numpy import save

from shared.errors import WeightsError
from shared.vision.aggregate import softmax
from shared.vision.familiarity import Familiarity
from shared.vision.features import Features
from shared.vision.patch_lens import PatchLens

Floats = NDArray[np.float32]
_FORMAT: Final = "similis-linear-head-1"


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map to the task's own space, where images of the same class lie close: (cls - mean) @ matrix.T.

    Attributes:
        matrix: (K, D).
        mean: (D,).
    """

    matrix: Floats
    mean: Floats

    def __call__(self, cls: NDArray[np.floating]) -> Floats:
        """(N, K) task-space vectors of L2 norm 1, from (N, D) class tokens."""
        projected = (np.asarray(cls, np.float64) - self.mean) @ self.matrix.T.astype(np.float64)
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        vectors: Floats = (projected / np.maximum(norms, 1e-12)).astype(np.float32)
        return vectors


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
        projection: If set, maps class tokens to the task's own search space.
        lens: If set, its figures of a frame are the last columns that the head reads.
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
    projection: Projection | None = None
    lens: PatchLens | None = None
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
        if self.familiarity is not None and not self.familiarity.fits(features):
            raise WeightsError(
                f"head of {self.task}: its out-of-distribution statistics do not fit {features} features"
            )
        if self.projection is not None:
            width = self.projection.mean.size
            expected |= {"projection": (len(self.projection.matrix), width), "projection_mean": (width,)}
        if self.lens is not None:
            rows, width = (*self.lens.weight.shape, 0, 0)[:2]
            expected |= {"lens_weight": (max(rows, 2), width), "lens_bias": (rows,)}
        for name, shape in expected.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise WeightsError(f"head of {self.task}: {name} is {arrays[name].shape} or not finite, not {shape}")
        if not (classes > 1 and features > 0 and np.isfinite(self.temperature) and self.temperature > 0):
            raise WeightsError(f"head of {self.task}: needs two classes, features and a positive temperature")
        if self.lens is not None and features <= self.lens.columns:
            raise WeightsError(
                f"head of {self.task}: reads {features} features, of which {self.lens.columns} are a lens's"
            )
        if not (self.feature_scale > 0).all():
            raise WeightsError(f"head of {self.task}: feature_scale must be positive")
        object.__setattr__(self, "id", f"{self.task}@{self._digest()[:12]}")

    def read(self, features: Features) -> Floats:
        """(N, F) what this head reads of frames: joined features, then its lens's figures.

        Raises:
            WeightsError: the head reads patches, and they were not kept.
        """
        if self.lens is None:
            return features.joined()
        if features.patches is None:
            raise WeightsError(f"head of {self.task} reads patch tokens, which this backbone does not keep")
        return np.concatenate([features.joined(), self.lens(features.patches)], axis=1)

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

    def project(self, cls: NDArray[np.floating]) -> Floats | None:
        """(N, K) task-space vectors of L2 norm 1, of (N, D) class tokens; None if the head has no such space."""
        return None if self.projection is None else self.projection(cls)

    @property
    def space_dim(self) -> int | None:
        """K, the length of a task-space vector; None if the head has no such space."""
        return None if self.projection is None else len(self.projection.matrix)

    def save(self, path: Path) -> None:
        """Write the head as safetensors."""
        path.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The head as a safetensors file: the same head, the same bytes."""
        return save(self._arrays(), metadata={"head": json.dumps(self._header(), sort_keys=True)})

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
                projection=Projection(arrays["projection"], arrays["projection_mean"])
                if "projection" in arrays
                else None,
                lens=PatchLens(arrays["lens_weight"], arrays["lens_bias"]) if "lens_weight" in arrays else None,
            )
            return replace(head, familiarity=Familiarity.from_parts(arrays, header))
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
            arrays |= self.familiarity.arrays()
        if self.projection is not None:
            arrays |= {"projection": self.projection.matrix, "projection_mean": self.projection.mean}
        if self.lens is not None:
            arrays |= {"lens_weight": self.lens.weight, "lens_bias": self.lens.bias}
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
            header |= self.familiarity.header()
        return header

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()
