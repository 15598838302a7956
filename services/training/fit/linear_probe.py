"""The linear probe: standardised frozen features, logistic regression, its strength by cross-validation over groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from services.training.dataset.cases import DatasetError
from services.training.features.case_features import CaseFeatures, choose_frames
from services.training.features.frame_views import Floats32
from services.training.fit.calibration import calibrate_scores
from services.training.fit.linear_rows import linear_rows
from shared.vision.aggregate import KEPT_FRACTION, aggregate, finding_margins
from shared.vision.heads import LinearHead
from shared.vision.patch_lens import PatchLens

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Grouping = Literal["patient", "source"]

STRENGTHS: Final = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # scikit-learn's C: smaller is stronger
FOLDS: Final = 5
_INSTANCE_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class FrameRows:
    """The frames of cases, in one line.

    Attributes:
        cls: (N, D).
        joined: (N, F).
        classes: (N,) class of each frame; of a frame whose own is not known, its case's.
        case: (N,) index of its case.
        is_known: (N,) whether the frame's own class is known.
        is_fitted: (N,) whether a probe is fitted on it; a case's score is made of all its frames.
    """

    cls: Floats32
    joined: Floats32
    classes: Ints
    case: Ints
    is_known: Bools
    is_fitted: Bools

    def of(self, cases: NDArray[Any]) -> FrameRows:
        """The frames of some cases, given by index."""
        return self.only(np.isin(self.case, cases))

    def only(self, rows: Bools) -> FrameRows:
        """Some of the frames."""
        return FrameRows(
            self.cls[rows],
            self.joined[rows],
            self.classes[rows],
            self.case[rows],
            self.is_known[rows],
            self.is_fitted[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A fitted probe.

    Attributes:
        head: Not calibrated.
        strength: The chosen C.
        left_out: (N, C) study logits of each training case by the probe of the fold that left it out.
        rows: The frames that it was fitted on.
        folds: How many folds there were.
        loss: Of the left-out scores, calibrated: the least that any strength gave.
    """

    head: LinearHead
    strength: float
    left_out: Floats
    rows: FrameRows
    folds: int
    loss: float


def stack_frames(cases: Sequence[CaseFeatures], labels: tuple[str, ...], fitted_frames: int | None = None) -> FrameRows:
    """All frames of `cases`.

    Args:
        cases: The cases.
        labels: C labels.
        fitted_frames: Most frames of a case that a probe is fitted on, see `case_features.choose_frames`; where the
            frames' own labels are not known, and None: all.

    Raises:
        DatasetError: a frame has a label that the task has not.
    """
    classes, known, fitted = [], [], []
    for case in cases:
        own = case.frame_labels or (case.label,) * len(case.joined)
        if not set(own) <= set(labels):
            raise DatasetError(f"{case.names[0]}: a frame's label is none of {', '.join(labels)}")
        classes += [labels.index(label) for label in own]
        known += [case.frame_labels is not None] * len(own)
        most = len(own) if fitted_frames is None or case.frame_labels is None else fitted_frames
        chosen = set(choose_frames(len(own), own, case.label, most))
        fitted += [index in chosen for index in range(len(own))]
    return FrameRows(
        cls=np.concatenate([case.cls for case in cases]),
        joined=np.concatenate([case.joined for case in cases]),
        classes=np.array(classes, np.int64),
        case=np.repeat(np.arange(len(cases)), [len(case.joined) for case in cases]),
        is_known=np.array(known, np.bool_),
        is_fitted=np.array(fitted, np.bool_),
    )


def case_classes(cases: Sequence[CaseFeatures], labels: tuple[str, ...]) -> Ints:
    """(N,) true classes of cases."""
    return np.array([labels.index(case.label) for case in cases], np.int64)


def case_logits(head: LinearHead, cases: Sequence[CaseFeatures], finding: Bools) -> Floats:
    """(N, C) uncalibrated study logits of cases."""
    return np.stack([aggregate(head.logits(case.joined), finding, 1.0).logits for case in cases])


def folds_of(cases: Sequence[CaseFeatures], classes: Ints, grouping: Grouping, seed: int) -> list[tuple[Ints, Ints]]:
    """Indices of the cases to fit on and of those left out, for each fold; a patient, or a source, is in one fold.

    Raises:
        DatasetError: a class has fewer than two groups, or all of its groups fell into one fold.
    """
    groups = np.unique([getattr(case.case, grouping) for case in cases], return_inverse=True)[1]
    fewest = min(len(np.unique(groups[classes == label])) for label in np.unique(classes))
    if fewest < 2:
        raise DatasetError(f"cross-validation needs at least two {grouping}s of each class")
    count = min(FOLDS, fewest)
    splitter: Any = GroupKFold(count)
    if grouping == "patient":
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = [(train, test) for train, test in splitter.split(np.zeros(len(cases)), classes, groups)]
    if any(len(np.unique(classes[train])) < len(np.unique(classes)) for train, _ in folds):
        raise DatasetError(f"cross-validation would leave out all of a class: it needs more {grouping}s of each class")
    return folds


def fit_probe(
    cases: Sequence[CaseFeatures],
    *,
    task: str,
    labels: tuple[str, ...],
    finding: Bools,
    backbone_id: str,
    grouping: Grouping = "patient",
    seed: int = 0,
    fitted_frames: int | None = None,
    lens: PatchLens | None = None,
    lens_alone: bool = False,
) -> Probe:
    """An uncalibrated head. Its regularisation is the one whose calibrated scores of left-out cases are most likely,
    since those are what is published.

    Where only the case's class is known, its frames count as of that class, and then, in two more rounds, only the
    quarter of them that looks most like a finding: what a study's score is made of (Andrews et al. 2003, mi-SVM).

    Args:
        cases: Training cases; with a lens, as `lens.fit_lens_of` gives them.
        task: The task's name.
        labels: C labels.
        finding: (C,) which classes are findings.
        backbone_id: Of the backbone that made the features.
        grouping: What is left out together.
        seed: Of the folds.
        fitted_frames: See `stack_frames`.
        lens: Its figures are the last columns of the features.
        lens_alone: Read no other columns: their weights are 0.

    Raises:
        DatasetError: there are too few groups to cross-validate.
    """
    rows, classes = stack_frames(cases, labels, fitted_frames), case_classes(cases, labels)
    read = np.ones(rows.joined.shape[1], np.float32)
    if lens is not None and lens_alone:
        read[: -lens.columns] = 0
    folds = folds_of(cases, classes, grouping, seed)
    scores = {strength: np.empty((len(cases), len(labels))) for strength in STRENGTHS}
    for train, test in folds:
        seen, unseen = rows.of(train), rows.of(test)
        seen = seen.only(seen.is_fitted)
        scaler = StandardScaler().fit(seen.joined)
        known, new = scaler.transform(seen.joined) * read, scaler.transform(unseen.joined) * read
        for strength, model in _models(known, seen, finding):
            logits = _logits(model, new)
            for index in test:
                scores[strength][index] = aggregate(logits[unseen.case == index], finding, 1.0).logits
    losses = {strength: calibrate_scores(scores[strength], classes, finding).loss for strength in STRENGTHS}
    strength = min(STRENGTHS, key=losses.__getitem__)
    rows = rows.only(rows.is_fitted)
    scaler = StandardScaler().fit(rows.joined)
    standardised = scaler.transform(rows.joined) * read
    model, used = _fit(standardised, rows, finding, strength)
    weight, bias = linear_rows(model)
    head = LinearHead(
        task=task,
        labels=labels,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        feature_mean=scaler.mean_.astype(np.float32),
        feature_scale=scaler.scale_.astype(np.float32),
        temperature=1.0,
        backbone_id=backbone_id,
        lens=lens,
    )
    return Probe(head, strength, scores[strength], rows.only(used), len(folds), losses[strength])


def _models(standardised: Floats32, rows: FrameRows, finding: Bools) -> Iterator[tuple[float, LogisticRegression]]:
    for strength in STRENGTHS:
        yield strength, _fit(standardised, rows, finding, strength)[0]


def _fit(standardised: Floats32, rows: FrameRows, finding: Bools, strength: float) -> tuple[LogisticRegression, Bools]:
    """The regression, and which frames it was fitted on."""
    used = np.ones(len(rows.classes), np.bool_)
    model = _logistic(strength).fit(standardised, rows.classes)
    uncertain = ~rows.is_known & finding[rows.classes]
    for _ in range(_INSTANCE_ROUNDS if uncertain.any() else 0):
        margins = finding_margins(_logits(model, standardised), finding)
        used = ~uncertain
        for case in np.unique(rows.case[uncertain]):
            at = np.flatnonzero(rows.case == case)
            used[at[np.argsort(-margins[at], kind="stable")[: int(np.ceil(KEPT_FRACTION * len(at)))]]] = True
        model = _logistic(strength).fit(standardised[used], rows.classes[used])
    return model, used


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000)


def _logits(model: LogisticRegression, standardised: Floats32) -> Floats:
    weight, bias = linear_rows(model)
    logits: Floats = standardised @ weight.T + bias
    return logits
