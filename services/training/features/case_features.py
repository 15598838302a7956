"""Cases to frozen features, by the very path that files take in the embedder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.training.dataset.cases import Case, CaseImages, DatasetError
from services.training.features.feature_cache import FeatureCache, Rows
from services.training.features.frame_views import Floats32, Mask, coverage_of, pixel_hash, thumbnail
from shared.errors import PermanentError
from shared.pixels import Frame, PixelLimits, read_frames, read_header, read_image
from shared.vision.features import Features
from shared.vision.frame_policy import FramesPolicy, evenly
from shared.vision.patch_lens import PatchLens
from shared.vision.tasks import TaskDefinition

_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_IN_A_BATCH: Final = 64  # frames decoded before the backbone is asked

Progress = Callable[[str, int, int], None]  # what is being made, done, of how many


class Encoder(Protocol):
    """What is needed of `shared.vision.backbone.Backbone`."""

    @property
    def id(self) -> str:
        """Part of every vector's identity."""

    @property
    def dim(self) -> int:
        """D, the length of a class token."""

    def encode(self, frames: Sequence[Frame], /) -> Features:
        """Features of frames."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseFeatures:
    """Features of a case's chosen frames.

    Attributes:
        case: The case.
        cls: float32 (N, D) class tokens.
        joined: float32 (N, F), see `shared.vision.features`.
        thumbnails: float32 (N, 32, 32, 3) in [0, 1].
        frame_labels: The class that each frame shows; None: only the case's own is known.
        names: Of the object that each frame is of.
        object_hashes: sha256 of each frame's object.
        pixel_hashes: sha256 of each frame's decoded pixels.
        subgroup: The case's known traits, those that its images told too.
        patches: float16 (N, P, D) patch tokens; None: not kept.
        coverage: float16 (N, P) share of each patch that the mask covers; None: not kept, or no masks.
    """

    case: Case
    cls: Floats32
    joined: Floats32
    thumbnails: Floats32
    frame_labels: tuple[str, ...] | None
    names: tuple[str, ...]
    object_hashes: tuple[str, ...]
    pixel_hashes: tuple[str, ...]
    subgroup: Mapping[str, str]
    patches: NDArray[np.float16] | None = None
    coverage: NDArray[np.float16] | None = None

    @property
    def label(self) -> str:
        """The case's true class."""
        return self.case.label


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a case holds beside its pixels; `frames` counts those of each object."""

    names: Sequence[str]
    hashes: Sequence[str]
    frames: Sequence[int]
    frame_labels: Sequence[str] | None
    subgroup: Mapping[str, str]


class CaseEncoder:
    """Reads, decodes and encodes cases; what was encoded once is read back from `cache_dir`, if there is one."""

    def __init__(
        self,
        backbone: Encoder,
        cache_dir: Path | None,
        limits: PixelLimits | None = None,
        *,
        lens: PatchLens | None = None,
        keep_patches: bool = False,
    ) -> None:
        """Nothing is read yet.

        Args:
            backbone: Frozen.
            cache_dir: Where features are kept.
            limits: Of what is decoded.
            lens: Of the head that will read: its figures are the last columns of `CaseFeatures.joined`.
            keep_patches: Whether to give the patch tokens and the lesions' coverage too, if there are any.
        """
        self._backbone = backbone
        self._lens, self._keep_patches = lens, keep_patches
        self._cache = FeatureCache(cache_dir, backbone.id, lens, keep_patches) if cache_dir else None
        self._limits = limits or PixelLimits()

    def encode(
        self,
        cases: Iterable[Case],
        *,
        choose: Callable[[int], Sequence[int]],
        title: str = "cases",
        progress: Progress | None = None,
    ) -> list[CaseFeatures]:
        """Features of cases. Blocks: a frame takes some hundredths of a second on a processor.

        Args:
            cases: The cases.
            choose: Which of a case's N frames are used, ascending; see `frame_choice`.
            title: Names the progress.
            progress: Called after each case.

        Raises:
            DatasetError: a case cannot be read, holds no image, or has other frames than labels.
        """
        cases = list(cases)
        found = []
        for done, case in enumerate(cases, start=1):
            found.append(self._case(case, choose))
            if progress:
                progress(title, done, len(cases))
        return found

    def _case(self, case: Case, choose: Callable[[int], Sequence[int]]) -> CaseFeatures:
        images: CaseImages | None = None
        facts = self._kept_facts(case)
        if facts is None:
            images = case.load()
            facts = self._facts(case, images)
            if self._cache and case.identity:
                self._cache.keep_facts(case.identity, asdict(facts))
        frames = [(at, number) for at, count in enumerate(facts.frames) for number in range(1, count + 1)]
        chosen = choose(len(frames))
        wanted: dict[int, list[int]] = {}
        for index in chosen:
            wanted.setdefault(frames[index][0], []).append(frames[index][1])
        parts = []
        for at, numbers in wanted.items():
            rows = self._cache.frames(facts.hashes[at], numbers) if self._cache else None
            if rows is None:
                images = images or case.load()
                masks = _masks_of(images, facts.frames, at, numbers)
                rows = self._encoded(images.names[at], images.objects[at], numbers, masks)
                if self._cache:
                    self._cache.keep_frames(facts.hashes[at], rows)
            parts.append(rows)
        joined = np.concatenate([part["joined"] for part in parts])
        return CaseFeatures(
            case=case,
            cls=joined[:, : self._backbone.dim],
            joined=joined,
            thumbnails=np.concatenate([part["thumbnails"] for part in parts]).astype(np.float32),
            frame_labels=tuple(facts.frame_labels[index] for index in chosen) if facts.frame_labels else None,
            names=tuple(facts.names[at] for at, numbers in wanted.items() for _ in numbers),
            object_hashes=tuple(facts.hashes[at] for at, numbers in wanted.items() for _ in numbers),
            pixel_hashes=tuple(str(value) for part in parts for value in part["pixels"]),
            subgroup={**facts.subgroup, **case.subgroup},
            patches=_column(parts, "patches"),
            coverage=_column(parts, "coverage"),
        )

    def _kept_facts(self, case: Case) -> _Facts | None:
        values = self._cache.facts(case.identity) if self._cache and case.identity else None
        try:
            return _Facts(**values) if values else None
        except TypeError:  # kept by an older Similis
            return None

    def _facts(self, case: Case, images: CaseImages) -> _Facts:
        if not images.objects:
            raise DatasetError("a case holds no image")
        counts = [self._frame_count(name, data) for name, data in zip(images.names, images.objects, strict=True)]
        labels = images.frame_labels
        if labels is not None and len(labels) != sum(counts):
            if len(labels) != len(counts):
                raise DatasetError(f"{images.names[0]}: {len(labels)} frame labels for {sum(counts)} frames")
            labels = tuple(label for label, count in zip(labels, counts, strict=True) for _ in range(count))
        if labels is None and sum(counts) == 1:
            labels = (case.label,)  # what the case shows, its only frame shows
        hashes = [hashlib.sha256(data).hexdigest() for data in images.objects]
        return _Facts(images.names, hashes, counts, labels, dict(images.subgroup))

    def _frame_count(self, name: str, data: bytes) -> int:
        if data.startswith(_PICTURES):
            return 1
        try:
            return read_header(data, limits=self._limits).number_of_frames
        except PermanentError as error:
            raise DatasetError(f"{name}: {error}") from error

    def _encoded(self, name: str, data: bytes, numbers: Sequence[int], masks: Sequence[Mask] | None) -> Rows:
        batches: list[Rows] = []
        for start in range(0, len(numbers), _IN_A_BATCH):
            stop = start + _IN_A_BATCH
            frames = self._decoded(name, data, numbers[start:stop])
            features = self._backbone.encode(frames)
            batch: Rows = {
                "numbers": np.array(numbers[start:stop]),
                "joined": self._read(features),
                "thumbnails": np.stack([thumbnail(frame) for frame in frames]).astype(np.float16),
                "pixels": np.array([pixel_hash(frame) for frame in frames]),
            }
            if self._keep_patches and features.patches is not None:
                batch["patches"] = features.patches.astype(np.float16)
                if masks is not None:
                    side = math.isqrt(features.patches.shape[1])
                    shares = [coverage_of(*pair, side) for pair in zip(frames, masks[start:stop], strict=True)]
                    batch["coverage"] = np.stack(shares).astype(np.float16)
            batches.append(batch)
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _read(self, features: Features) -> Floats32:
        if self._lens is None:
            return features.joined()
        if features.patches is None:
            raise DatasetError("a head with a patch lens needs a backbone that keeps patches")
        return np.concatenate([features.joined(), self._lens(features.patches)], axis=1)

    def _decoded(self, name: str, data: bytes, numbers: Sequence[int]) -> list[Frame]:
        try:
            if data.startswith(_PICTURES):
                return [read_image(data, limits=self._limits)]
            return read_frames(data, frame_numbers=numbers, limits=self._limits)
        except PermanentError as error:
            raise DatasetError(f"{name}: {error}") from error


def frame_choice(definition: TaskDefinition) -> Callable[[int], list[int]]:
    """The task's own choice among a case's frames; a choice by tag takes them all: label only images that have it."""

    policy = definition.frames or FramesPolicy()

    def choose(count: int) -> list[int]:
        chosen = policy.choose([True] * count)
        return _evenly(chosen, definition.max_frames or count)

    return choose


def choose_frames(count: int, labels: Sequence[str], label: str, most: int) -> list[int]:
    """At most `most` of a case's frames, ascending: three quarters show the case's own class, the rest something else.

    Args:
        count: Frames of the case.
        labels: What each shows.
        label: The case's class.
        most: To choose.
    """
    showing = [index for index in range(count) if labels[index] == label]
    others = [index for index in range(count) if labels[index] != label]
    if count <= most or not others:
        return _evenly(range(count), most)
    of_others = min(len(others), max(most // 4, most - len(showing)))
    return sorted([*_evenly(showing, most - of_others), *_evenly(others, of_others)])


def _masks_of(images: CaseImages, frames: Sequence[int], at: int, numbers: Sequence[int]) -> list[Mask] | None:
    if images.masks is None:
        return None
    if len(images.masks) != sum(frames):
        raise DatasetError(f"{images.names[0]}: {len(images.masks)} masks for {sum(frames)} frames")
    first = sum(frames[:at])
    return [images.masks[first + number - 1] for number in numbers]


def _column(parts: Sequence[Rows], name: str) -> NDArray[np.float16] | None:
    return np.concatenate([part[name] for part in parts]) if all(name in part for part in parts) else None


def _evenly(indices: Sequence[int], most: int) -> list[int]:
    if len(indices) <= most:
        return list(indices)
    return [indices[at] for at in evenly(len(indices), most)]
