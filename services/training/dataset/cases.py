"""Labelled cases, whatever they come from: a folder, the archive, a phantom recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError

SplitName = Literal["training", "calibration", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("training", "calibration", "test")


class DatasetError(ConfigurationError):
    """Labels or images that a head cannot be trained on."""


@dataclass(frozen=True, slots=True)
class CaseImages:
    """A case's images, read.

    Attributes:
        names: Of the objects, as their owner knows them: a path below the data folder, an archive key.
        objects: DICOM Part-10, PNG or JPEG bytes, in order.
        frame_labels: The class that is visible in each frame of all objects, or in each object, in order; None: only
            the case's own label is known.
        subgroup: Traits that only the images told.
        masks: bool (H, W) of each frame of all objects, in order: what of it shows the finding; None: not known.
    """

    names: tuple[str, ...]
    objects: tuple[bytes, ...]
    frame_labels: tuple[str, ...] | None = None
    subgroup: Mapping[str, str] = field(default_factory=dict)
    masks: tuple[NDArray[np.bool_], ...] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One study, or one picture, with its true class.

    Attributes:
        study: Unique among the cases.
        patient: What splits are grouped by. It stays in memory: neither the card nor the cache has it.
        label: The true class.
        load: Reads the images. Raises OSError or one of our errors.
        split: The given split; None: to be drawn.
        source: What the images are built on or come from (a scanner, an anatomy); "" if unknown.
        subgroup: Known traits: sex, age_band, scanner (a letter, see `lettered_scanners`).
        identity: Set where the same string always means the same images, so that features can be found without them.
    """

    study: str
    patient: str
    label: str
    load: Callable[[], CaseImages]
    split: SplitName | None = None
    source: str = ""
    subgroup: Mapping[str, str] = field(default_factory=dict)
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """All cases of one origin.

    Attributes:
        cases: In a steady order.
        kind: What they come from.
        description: One line for the card; it names no file and no person.
        patients_known: Whether `Case.patient` is known rather than assumed to be the study.
        has_masks: Whether the images come with exact masks, so that a patch lens can be fitted.
    """

    cases: tuple[Case, ...]
    kind: Literal["folder", "archive", "phantom"]
    description: str
    patients_known: bool
    has_masks: bool = False


def checked_cases(cases: list[Case], labels: tuple[str, ...]) -> tuple[Case, ...]:
    """The cases in a steady order.

    Raises:
        DatasetError: there is none, a study occurs twice, or a class has no case.
    """
    if not cases:
        raise DatasetError("no labelled image was found")
    studies = {case.study for case in cases}
    if len(studies) < len(cases):
        raise DatasetError(f"{len(cases) - len(studies)} cases have a study that another case has too")
    if missing := [label for label in labels if all(case.label != label for case in cases)]:
        raise DatasetError(f"no case is labelled {', '.join(missing)}; the task needs all of {', '.join(labels)}")
    return tuple(sorted(cases, key=lambda case: case.study))


def lettered_scanners(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases with scanners A, B, ... in the order of their first case.

    A scanner or a site is free text from outside, which may name a person or a place; cards print it.
    """
    names = dict.fromkeys(case.subgroup["scanner"] for case in cases if "scanner" in case.subgroup)
    letters = {name: _letters(at) for at, name in enumerate(names)}
    return tuple(
        replace(case, subgroup={**case.subgroup, "scanner": letters[case.subgroup["scanner"]]})
        if "scanner" in case.subgroup
        else case
        for case in cases
    )


def _letters(number: int) -> str:
    """A to Z, then AA, AB, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
