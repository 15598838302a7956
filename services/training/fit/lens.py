"""The patch lens: a logistic probe on single patch tokens, trained with the lesions' exact masks.

A frame's figures from a lens that has seen the frame would be too good to learn from. So each training case gets
them from the lens of a fold that left it out, and all others from the lens of the whole training split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from services.training.dataset.cases import DatasetError
from services.training.features.case_features import CaseFeatures
from services.training.fit.linear_probe import Grouping, case_classes, folds_of
from services.training.fit.linear_rows import linear_rows
from shared.vision.patch_lens import PatchLens

LEAST_COVERAGE: Final = 0.25  # of a patch by the lesion for it to be one of the lesion's
LEAST_PATIENTS: Final = 2  # with covered patches, of each finding, in all that a lens is fitted on
PLAIN_PATCHES: Final = 12  # per frame, drawn from those that the lesion does not touch
STRENGTH: Final = 50.0  # scikit-learn's C for weights that sum to 1; five times more changes nothing

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LensFit:
    """A lens and what heads read with it.

    Attributes:
        lens: Fitted on all training cases.
        parts: The given cases by their names, the lens's figures in their last columns, without patches.
    """

    lens: PatchLens
    parts: Mapping[str, list[CaseFeatures]]


def can_fit_lens(
    cases: Sequence[CaseFeatures],
    labels: tuple[str, ...],
    finding: Bools,
    grouping: Grouping = "patient",
    seed: int = 0,
) -> bool:
    """Whether a lens can be fitted on the cases, and on those of each fold: they have patches, and each finding has
    patches that its masks cover, of `LEAST_PATIENTS` or more. The arguments are those of `fit_lens_of`.
    """
    if finding.all() or any(case.patches is None or case.coverage is None for case in cases):
        return False
    classes = case_classes(cases, labels)
    try:
        folds = folds_of(cases, classes, grouping, seed)
    except DatasetError:
        return False
    patients = np.array([case.case.patient for case in cases])
    covers, is_plain = np.array([_covers(case.coverage) for case in cases], np.bool_).T
    return all(
        is_plain[fitted].any()
        and all(
            len(np.unique(patients[fitted][covers[fitted] & (classes[fitted] == label)])) >= LEAST_PATIENTS
            for label in np.flatnonzero(finding)
        )
        for fitted in (np.arange(len(cases)), *(train for train, _ in folds))
    )


def fit_lens_of(
    parts: Mapping[str, list[CaseFeatures]],
    labels: tuple[str, ...],
    finding: Bools,
    grouping: Grouping,
    seed: int,
) -> LensFit:
    """Fit on `parts["training"]` and show all parts through the lens.

    Args:
        parts: Cases with patches; those of "training" with coverage too, see `can_fit_lens`.
        labels: C labels.
        finding: (C,) which classes are findings.
        grouping: What the folds leave out together.
        seed: Of folds and of the plain patches.

    Raises:
        DatasetError: there are too few groups for folds.
    """
    training = parts["training"]
    shown: dict[int, CaseFeatures] = {}
    for train, test in folds_of(training, case_classes(training, labels), grouping, seed):
        lens = fit_lens([training[index] for index in train], labels, finding, seed)
        shown |= {int(index): through(lens, training[index]) for index in test}
    lens = fit_lens(training, labels, finding, seed)
    others = {name: [through(lens, case) for case in cases] for name, cases in parts.items() if name != "training"}
    return LensFit(lens, {"training": [shown[index] for index in range(len(training))], **others})


def fit_lens(cases: Sequence[CaseFeatures], labels: tuple[str, ...], finding: Bools, seed: int) -> PatchLens:
    """The lens of `cases`. "Nothing here" counts as much as two findings; within a class, all patches count alike.

    Raises:
        ValueError: a case has no patches, or a finding no covered one: see `can_fit_lens`.
    """
    findings = [label for label, is_finding in zip(labels, finding, strict=True) if is_finding]
    rng = np.random.default_rng([seed, 17])
    tokens, classes = [], []
    for case in cases:
        if case.patches is None or case.coverage is None:
            raise ValueError("a lens needs patches and masks")
        flat = case.patches.reshape(-1, case.patches.shape[2])
        covered = np.flatnonzero(case.coverage.reshape(-1) >= LEAST_COVERAGE)
        if case.label not in findings:
            covered = covered[:0]
        order = np.where(case.coverage > 0, 2.0, rng.random(case.coverage.shape))
        width = case.coverage.shape[1]
        plain = np.argsort(order, axis=1)[:, :PLAIN_PATCHES] + width * np.arange(len(order))[:, None]
        plain = plain[np.take_along_axis(order, plain % width, axis=1) < 1]
        tokens += [flat[covered], flat[plain]]
        of_case = 1 + findings.index(case.label) if len(covered) else 0
        classes += [np.full(len(covered), of_case), np.zeros(len(plain), np.int64)]
    x, y = np.concatenate(tokens).astype(np.float32), np.concatenate(classes)
    if np.unique(y).tolist() != list(range(len(findings) + 1)):
        raise ValueError("a lens needs covered patches of each finding, and patches that no finding touches")
    scaler = StandardScaler().fit(x)
    weights = (1.0 / np.bincount(y))[y] * np.where(y == 0, 2.0, 1.0)
    model = LogisticRegression(C=STRENGTH, max_iter=300, tol=1e-3)
    model.fit(scaler.transform(x), y, sample_weight=weights / weights.sum())
    weight, bias = linear_rows(model)
    weight = weight / scaler.scale_
    return PatchLens(weight.astype(np.float32), (bias - weight @ scaler.mean_).astype(np.float32))


def through(lens: PatchLens, case: CaseFeatures) -> CaseFeatures:
    """`case` with the lens's figures in its last columns, and its patches given up."""
    if case.patches is None:
        raise ValueError("a lens needs patches")
    joined = np.concatenate([case.joined, lens(case.patches)], axis=1)
    return replace(case, joined=joined, patches=None, coverage=None)


def _covers(coverage: NDArray[np.float16] | None) -> tuple[bool, bool]:
    """Whether patches are covered, and whether some are free."""
    if coverage is None:
        return False, False
    return bool((coverage >= LEAST_COVERAGE).any()), bool((coverage == 0).any())
