"""What every phantom recipe gives: labelled DICOM studies, a pure function of source, seed, label and contrast.

A phantom is a simulated image. It stands for no real patient. Research use only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelledStudy:
    """A phantom study and its truth.

    Attributes:
        study_id: Unique: a pure function of recipe, source, seed, label and contrast.
        patient: The virtual subject, which splits are grouped by.
        source: The anatomy, texture or base image it is built on ("" if none); held-out evaluation groups by it.
        label: The study's class.
        objects: DICOM Part 10 bytes, one per image, in order.
        frame_labels: Class visible in each frame of all objects, in order.
        masks: Exact lesion mask of each frame, bool (H, W); all False if there is no lesion.
        subgroup: Virtual values that have nothing to do with the class, such as
            {"sex": "F", "age_band": "60-69", "scanner": "A"}.
    """

    study_id: str
    patient: str
    source: str
    label: str
    objects: tuple[bytes, ...]
    frame_labels: tuple[str, ...]
    masks: tuple[NDArray[np.bool_], ...]
    subgroup: Mapping[str, str]


class PhantomRecipe(Protocol):
    """How the phantoms of one task are made.

    Attributes:
        task: The task's name.
        version: Raised whenever the same arguments give other bytes.
        labels: The classes.
        normal: The class without a lesion.
        sources: What studies can be built on, for `source`.
    """

    @property
    def task(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> int: ...  # noqa: D102

    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def normal(self) -> str: ...  # noqa: D102

    @property
    def sources(self) -> tuple[str, ...]: ...  # noqa: D102

    def study(self, seed: int, label: str, *, contrast: float = 4.0, source: str | None = None) -> LabelledStudy:
        """The study of these arguments: the same ones, the same bytes.

        Args:
            seed: The virtual subject, at least 0.
            label: One of `labels`.
            contrast: How clearly the lesion shows; 4 is the reference.
            source: One of `sources`; unset: drawn by the seed.

        Raises:
            ValueError: an argument is out of range.
        """
        ...

    def definition(self) -> dict[str, Any]:
        """What `task.yaml` needs besides thresholds: modalities, body parts, SOP classes, frames, coded classes."""
        ...
