"""Linear probe on frame features, calibrated and gated on study scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from services.training.features import StudyFeatures
from services.training.metrics import Floats, Ints
from shared.vision.aggregate import aggregate, softmax
from shared.vision.heads import Familiarity, LinearHead

REGULARISATION: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # scikit-learn's C: smaller is stronger
FOLDS: Final = 5
COMPONENTS: Final = 3  # principal directions that the out-of-distribution distance keeps
TARGET_ACCURACY: Final = 0.9  # of the answered calibration studies
OOD_QUANTILE: Final = 0.99  # of the calibration studies' distances is taken as familiar


def stack_frames(studies: Sequence[StudyFeatures]) -> tuple[NDArray[np.float32], Ints, Ints]:
    """All frames of `studies`: features (N, F), classes (N,), subjects (N,)."""
    features = np.concatenate([study.joined for study in studies])
    classes = np.concatenate([study.frame_classes() for study in studies])
    subjects = np.concatenate([np.full(len(study.joined), study.spec.seed) for study in studies])
    return features, classes, subjects


def study_classes(studies: Sequence[StudyFeatures]) -> Ints:
    """(N,) true classes of studies."""
    return np.array([study.study_class for study in studies], np.int64)


def fit_head(
    studies: Sequence[StudyFeatures],
    *,
    task: str,
    labels: tuple[str, ...],
    finding: NDArray[np.bool_],
    backbone_id: str,
) -> tuple[LinearHead, float]:
    """An uncalibrated head and the regularisation that subject-grouped cross-validation chose.

    The choice is by the likelihood of the calibrated scores of left-out studies, since those are what is published.
    """
    features, classes, subjects = stack_frames(studies)
    truth = study_classes(studies)
    order = [study.spec.seed for study in studies]

    def loss(strength: float) -> float:
        logits = np.empty((len(features), len(labels)))
        for train, test in GroupKFold(FOLDS).split(features, classes, subjects):
            scaler = StandardScaler().fit(features[train])
            model = _logistic(strength).fit(scaler.transform(features[train]), classes[train])
            logits[test] = model.decision_function(scaler.transform(features[test]))
        scores = np.stack([aggregate(logits[subjects == subject], finding, 1.0).logits for subject in order])
        return _fit_calibration(scores, truth, finding)[2]

    strength = min(REGULARISATION, key=loss)
    scaler = StandardScaler().fit(features)
    standardised = scaler.transform(features)
    model = _logistic(strength).fit(standardised, classes)
    head = LinearHead(
        task=task,
        labels=labels,
        weight=model.coef_.astype(np.float32),
        bias=model.intercept_.astype(np.float32),
        feature_mean=scaler.mean_.astype(np.float32),
        feature_scale=scaler.scale_.astype(np.float32),
        temperature=1.0,
        backbone_id=backbone_id,
        familiarity=_familiarity(standardised),
    )
    return head, strength


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000)


def _familiarity(standardised: Floats) -> Familiarity:
    """Principal directions and spreads of standardised training features (N, F), probabilistic PCA."""
    count, width = standardised.shape
    _, singular, directions = np.linalg.svd(standardised, full_matrices=False)
    variances = singular**2 / (count - 1)
    kept = min(COMPONENTS, len(variances) - 1)
    residual = (np.sum(variances) - np.sum(variances[:kept])) / (width - kept)
    return Familiarity(
        components=directions[:kept].astype(np.float32),
        scale=np.sqrt(variances[:kept]).astype(np.float32),
        residual_scale=float(np.sqrt(residual)),
    )


def study_logits(head: LinearHead, studies: Sequence[StudyFeatures], finding: NDArray[np.bool_]) -> Floats:
    """(N, C) uncalibrated logits of studies."""
    return np.stack([aggregate(head.logits(study.joined), finding, 1.0).logits for study in studies])


def calibrate(head: LinearHead, logits: Floats, classes: Ints, finding: NDArray[np.bool_]) -> LinearHead:
    """`head` with the offset and the temperature that make study logits (N, C) most likely.

    A study is judged by its most suspicious frames, so a probe that is fitted on single frames calls too many
    healthy studies ill. One offset on the logits of the non-findings mends that. It shifts every frame's finding
    margin alike, so that the same frames are kept with the same weights. Temperature: Guo et al. 2017.
    """
    offset, temperature, _ = _fit_calibration(logits, classes, finding)
    bias = head.bias + np.where(finding, 0.0, offset).astype(np.float32)
    return replace(head, bias=bias.astype(np.float32), temperature=temperature)


def _fit_calibration(logits: Floats, classes: Ints, finding: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Offset of the non-findings, temperature, and the mean negative log-likelihood that they reach."""

    def loss(parameters: Floats) -> float:
        shifted = logits + np.where(finding, 0.0, parameters[0])
        probabilities = softmax(shifted / np.exp(parameters[1]))
        return -float(np.log(probabilities[np.arange(len(classes)), classes] + 1e-12).mean())

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", bounds=[(-50.0, 50.0), (np.log(0.05), np.log(50.0))])
    return float(best.x[0]), float(np.exp(best.x[1])), float(best.fun)


def abstention_threshold(probabilities: Floats, classes: Ints) -> float:
    """The least confidence at which the answered studies reach the target accuracy.

    If none does, the median confidence: half of the studies are then left to a person.
    """
    top = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == classes
    least = max(10, len(top) // 4)  # fewer answers than this say nothing about accuracy
    for threshold in np.arange(0.30, 0.96, 0.01):
        answered = top >= threshold
        if answered.sum() < least:
            break
        if correct[answered].mean() >= TARGET_ACCURACY:
            return round(float(threshold), 2)
    return round(float(np.median(top)), 2)


def study_distance(head: LinearHead, study: StudyFeatures) -> float:
    """Median distance of a study's frames from the training's."""
    distances = head.distances(study.joined)
    if distances is None:
        raise ValueError("the head has no out-of-distribution statistics")
    return float(np.median(distances))
