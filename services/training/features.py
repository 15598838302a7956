"""Phantom studies to frozen features, by the very path that DICOM files take, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.training.anatomy import Anatomy
from services.training.dicom_writer import mr_images, part10_bytes
from services.training.lesion import LABELS, NORMAL
from services.training.phantom import RECIPE_VERSION, PhantomSpec, synthesise
from shared.pixels import Frame, PixelLimits, read_frames
from shared.vision.backbone import Backbone
from shared.vision.features import JOINED_VERSION

LEAST_AREA_MM2: Final = 40.0  # of lesion in a slice for it to carry the lesion's label
_THUMBNAIL_PX: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class StudyFeatures:
    """Features of a study's chosen frames.

    Attributes:
        spec: The phantom.
        joined: float32 (N, F), see `shared.vision.features`.
        area_mm2: (N,) lesion area in each frame.
        thumbnails: float32 (N, 32, 32) in [0, 1], for the shortcut check.
    """

    spec: PhantomSpec
    joined: NDArray[np.float32]
    area_mm2: NDArray[np.float64]
    thumbnails: NDArray[np.float32]

    @property
    def study_class(self) -> int:
        """The study's true class, as an index of `LABELS`."""
        return LABELS.index(self.spec.label)

    def frame_classes(self) -> NDArray[np.int64]:
        """(N,) true class of each frame: normal where the lesion hardly reaches."""
        seen = self.area_mm2 >= LEAST_AREA_MM2
        return np.where(seen, self.study_class, LABELS.index(NORMAL))


class FeatureSource:
    """Synthesises, encodes and remembers studies on one anatomy."""

    def __init__(self, anatomy: Anatomy, backbone: Backbone, cache_dir: Path | None) -> None:
        self.anatomy = anatomy
        self._backbone = backbone
        self._cache_dir = cache_dir.expanduser() / "phantom-features" if cache_dir else None

    def study(self, spec: PhantomSpec, frames: int | None = None) -> StudyFeatures:
        """Features of `spec`.

        Args:
            spec: The phantom.
            frames: Unset: all slices. Else this many: the lesion's largest, and one drawn from the others; in a
                normal study, drawn at random.
        """
        cached = self._cached(spec, frames)
        if cached is not None and cached.exists():
            with np.load(cached) as stored:
                return StudyFeatures(spec, stored["joined"], stored["area_mm2"], stored["thumbnails"])
        volume = synthesise(self.anatomy, spec)
        images = mr_images(self.anatomy, spec, volume)
        areas = volume.lesion_area_mm2()
        chosen = _choose(areas, spec, frames)
        decoded = [
            frame for index in chosen for frame in read_frames(part10_bytes(images[index]), limits=PixelLimits())
        ]
        features = StudyFeatures(
            spec,
            self._backbone.encode(decoded).joined(),
            areas[chosen],
            np.stack([_thumbnail(frame) for frame in decoded]),
        )
        if cached is not None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(".partial.npz")
            np.savez(partial, joined=features.joined, area_mm2=features.area_mm2, thumbnails=features.thumbnails)
            partial.replace(cached)
        return features

    def _cached(self, spec: PhantomSpec, frames: int | None) -> Path | None:
        if self._cache_dir is None:
            return None
        facts = (RECIPE_VERSION, self.anatomy.sha256, self._backbone.id, JOINED_VERSION, spec, frames)
        return self._cache_dir / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.npz"


def _choose(areas: NDArray[np.float64], spec: PhantomSpec, frames: int | None) -> Sequence[int]:
    if frames is None or frames >= len(areas):
        return list(range(len(areas)))
    rng = np.random.default_rng([spec.seed, 11])
    if spec.label == NORMAL:
        return sorted(int(index) for index in rng.choice(len(areas), frames, replace=False))
    largest = [int(index) for index in np.argsort(-areas, kind="stable")]
    return sorted([*largest[: frames - 1], int(rng.choice(largest[frames - 1 :]))])


def _thumbnail(frame: Frame) -> NDArray[np.float32]:
    small = Image.fromarray(frame.pixels).resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small, np.float32)
