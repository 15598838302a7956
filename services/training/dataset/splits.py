"""Training, calibration and test, by patient."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.training.dataset.cases import SPLITS, Case, DatasetError, SplitName

_HELD_SHARE: Final = 0.2  # of the patients of each class, for calibration and for test each

Parts = dict[SplitName, list[Case]]


def split_cases(cases: Sequence[Case], seed: int) -> tuple[Parts, str]:
    """The given splits, or three fifths, a fifth and a fifth of the patients of each class, drawn by seed.

    Where only training and test are given, calibration is drawn from training.

    Returns:
        The parts, and how they came about, for the card.

    Raises:
        DatasetError: only some cases have a split, or a part lacks a class.
    """
    given = {case.split for case in cases}
    if given == {None}:
        parts, how = _drawn(cases, seed, ("calibration", "test")), f"by patient, drawn with seed {seed}"
    elif None in given:
        count = sum(case.split is None for case in cases)
        raise DatasetError(f"{count} of {len(cases)} cases have no split, the others have one")
    else:
        parts = {name: [case for case in cases if case.split == name] for name in SPLITS}
        how = "as given"
        if not parts["calibration"]:
            parts |= _drawn(parts["training"], seed, ("calibration",))
            how = f"as given; calibration drawn from training with seed {seed}"
    check_parts(parts)
    return parts, how


def check_parts(parts: Parts) -> None:
    """Refuse parts that cannot train, calibrate or test every class.

    Raises:
        DatasetError: a part lacks a class.
    """
    labels = sorted({case.label for part in parts.values() for case in part})
    for name in SPLITS:
        if missing := [label for label in labels if all(case.label != label for case in parts[name])]:
            raise DatasetError(
                f"the {name} split has {len(parts[name])} cases and none of {', '.join(missing)}: more patients of "
                "each class are needed, or another seed or split"
            )


def _drawn(cases: Sequence[Case], seed: int, names: tuple[SplitName, ...]) -> Parts:
    patients: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        patients[case.patient].append(case)
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, theirs in patients.items():
        strata[min(case.label for case in theirs)].append(patient)
    parts: Parts = {name: [] for name in ("training", *names)}
    for members in strata.values():
        members.sort(key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
        held = max(1, round(_HELD_SHARE * len(members)))
        for at, patient in enumerate(members):
            name = names[at // held] if at < held * len(names) else "training"
            parts[name].extend(replace(case, split=name) for case in patients[patient])
    return parts
