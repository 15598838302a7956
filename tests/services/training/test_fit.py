"""Probe, calibration, neighbours and task space on made-up features, whose best answer is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from labelled_images import FINDING, LABELS, made_up
from scipy.optimize import OptimizeResult, minimize

from services.training.card.text import limits_of
from services.training.dataset.cases import DatasetError
from services.training.features.case_features import CaseFeatures, choose_frames
from services.training.fit import calibration as calibration_module
from services.training.fit.calibration import calibrate_scores, calibrated, operating_point
from services.training.fit.linear_probe import Probe, case_classes, case_logits, fit_probe, folds_of, stack_frames
from services.training.fit.neighbours import fit_neighbours, neighbour_probabilities
from services.training.fit.task_space import fit_projection, precision_at, shown_frames, unit
from services.training.fit.unfamiliar import fit_familiarity, study_distance
from shared.vision.aggregate import softmax
from shared.vision.heads import LinearHead

PATIENTS = np.array([f"p{seed}" for seed in range(2000, 2120)])


def fitted(cases: list[CaseFeatures] | None = None, **change: object) -> Probe:
    cases = cases or [made_up(seed) for seed in range(60)]
    values = {"task": "shapes", "labels": LABELS, "finding": FINDING, "backbone_id": "made-up", **change}
    return fit_probe(cases, **values)


@pytest.fixture(scope="module")
def probe() -> Probe:
    return fitted()


@pytest.fixture(scope="module")
def fresh() -> list[CaseFeatures]:
    return [made_up(seed) for seed in range(1000, 1120)]


@pytest.fixture(scope="module")
def new() -> list[CaseFeatures]:
    return [made_up(seed) for seed in range(2000, 2120)]


def accuracy(head: LinearHead, cases: list[CaseFeatures]) -> float:
    return float((case_logits(head, cases, FINDING).argmax(axis=1) == case_classes(cases, LABELS)).mean())


def loss(head: LinearHead, cases: list[CaseFeatures]) -> float:
    chosen = head.probabilities(case_logits(head, cases, FINDING))[np.arange(len(cases)), case_classes(cases, LABELS)]
    return -float(np.log(chosen).mean())


def test_frames_without_a_finding_count_as_normal():
    rows = stack_frames([made_up(1)], LABELS)
    assert rows.classes.tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    with pytest.raises(DatasetError, match="a frame's label is none of"):
        stack_frames([made_up(1)], ("normal", "bar"))


def test_fitting_twice_gives_the_same_head(probe):
    assert fitted().head.id == probe.head.id


def test_a_case_is_never_scored_by_a_probe_that_saw_its_patient(probe):
    cases = [made_up(seed) for seed in range(60)]
    cases = [replace(case, case=replace(case.case, patient=f"p{at // 2}")) for at, case in enumerate(cases)]
    classes = case_classes(cases, LABELS)
    for train, test in folds_of(cases, classes, "patient", 0):
        assert not {cases[at].case.patient for at in train} & {cases[at].case.patient for at in test}
    # Left-out scores are worse than those of the probe that saw the case: they are honest.
    seen = loss(probe.head, [made_up(seed) for seed in range(60)])
    left_out = softmax(probe.left_out)[np.arange(60), case_classes([made_up(s) for s in range(60)], LABELS)]
    assert -float(np.log(left_out).mean()) > seen


def test_sources_can_be_left_out_together():
    cases = [made_up(seed) for seed in range(60)]
    cases = [replace(case, case=replace(case.case, source="ab"[at // 3 % 2])) for at, case in enumerate(cases)]
    folds = folds_of(cases, case_classes(cases, LABELS), "source", 0)
    assert len(folds) == 2
    assert all(len({cases[at].case.source for at in test}) == 1 for _, test in folds)
    with pytest.raises(DatasetError, match="two sources"):
        fitted([made_up(seed) for seed in range(60)], grouping="source")


def test_a_fold_that_would_not_know_a_class_is_an_error():
    # Two big sources without bars, and two small ones of bars alone, which fill up the smaller half together.
    others = [made_up(seed) for seed in range(60) if seed % 3 != LABELS.index("bar")][:38]
    bars = [made_up(LABELS.index("bar")), made_up(3 + LABELS.index("bar"))]
    sources = ["a"] * 20 + ["b"] * 18 + ["c", "d"]
    cases = [
        replace(one, case=replace(one.case, source=source))
        for one, source in zip([*others, *bars], sources, strict=True)
    ]
    with pytest.raises(DatasetError, match="leave out all of a class"):
        folds_of(cases, case_classes(cases, LABELS), "source", 0)


def test_few_frames_of_a_case_are_fitted_and_all_of_them_scored():
    rows = stack_frames([made_up(1), made_up(0)], LABELS, fitted_frames=4)
    assert rows.is_fitted[:8].sum() == 4
    assert rows.is_fitted[2:5].all()
    assert rows.is_fitted[8:].sum() == 4
    assert choose_frames(8, ("normal",) * 8, "normal", 4) == [0, 2, 5, 7]


def test_two_classes_make_a_head_too():
    cases = [made_up(seed, signal=6.0) for seed in range(90) if seed % 3 < 2]
    head = fitted(cases, labels=LABELS[:2], finding=FINDING[:2]).head
    assert head.weight.shape[0] == 2
    right = case_logits(head, cases, FINDING[:2]).argmax(axis=1) == case_classes(cases, LABELS[:2])
    assert right.mean() > 0.8


def test_frames_are_told_apart_where_only_the_study_is_labelled(new):
    # As many clean frames as shown ones: a probe that takes them all for ill learns less.
    cases = [made_up(seed, known=False, signal=4.0) for seed in range(90)]
    easy = [made_up(seed, signal=4.0) for seed in range(2000, 2120)]
    probe = fitted(cases)
    assert accuracy(probe.head, easy) > 0.75
    ill = ~np.isin(probe.rows.case, [at for at, case in enumerate(cases) if case.label == "normal"])
    assert ill.sum() == 2 * 60  # a quarter of the eight frames of each of the sixty ill cases


@pytest.mark.parametrize("cross_fitted", [False, True])
def test_calibration_lowers_the_loss_on_new_cases(probe, fresh, new, cross_fitted):
    scores, classes = case_logits(probe.head, fresh, FINDING), case_classes(fresh, LABELS)
    if cross_fitted:
        training = [made_up(seed) for seed in range(60)]
        scores = np.concatenate([probe.left_out, scores])
        classes = np.concatenate([case_classes(training, LABELS), classes])
    calibration = calibrate_scores(scores, classes, FINDING)
    after = calibrated(probe.head, calibration, FINDING)
    assert loss(after, new) < loss(probe.head, new)
    assert accuracy(after, new) > 0.6


def test_the_offset_moves_every_frame_alike(probe, fresh):
    before = case_logits(probe.head, fresh, FINDING)
    calibration = calibrate_scores(before, case_classes(fresh, LABELS), FINDING)
    change = case_logits(calibrated(probe.head, calibration, FINDING), fresh, FINDING) - before
    assert np.allclose(change[:, FINDING], 0, atol=1e-5)
    assert np.allclose(change[:, ~FINDING], calibration.offset, atol=1e-5)
    assert abs(calibration.offset) > 0.05


def test_without_a_healthy_class_only_the_temperature_is_fitted():
    logits = np.random.default_rng(0).normal(size=(50, 2)) * 5
    assert calibrate_scores(logits, logits.argmax(axis=1), np.array([True, True])).offset == 0.0


@pytest.mark.parametrize("per_class", [10, 100])
def test_scores_without_a_fault_do_not_make_answers_certain(per_class):
    classes = np.tile([0, 1], per_class)
    logits = np.where(classes[:, None] == [0, 1], 50.0, 0.0)
    calibration = calibrate_scores(logits, classes, np.array([False, True]))
    confidence = softmax(logits / calibration.temperature).max(axis=1)
    assert confidence.mean() == pytest.approx((per_class + 1) / (per_class + 2), abs=0.002)


def test_scores_that_speak_against_the_truth_end_at_a_bound_and_it_is_said():
    classes = np.tile([0, 1, 2], 40)
    wrong = -5.0 * np.eye(3)[classes]
    assert calibrate_scores(wrong, classes, FINDING).at_bound
    far = np.where(np.arange(3) == 0, -4000.0, 0.0) + 1000.0 * np.eye(3)[classes]
    assert calibrate_scores(far, classes, FINDING).at_bound
    sound = calibrate_scores(np.random.default_rng(0).normal(size=(120, 3)) + 2 * np.eye(3)[classes], classes, FINDING)
    assert (sound.at_bound, sound.has_converged) == (False, True)
    limits = {"patients_known": True, "moved": 0, "test_cases": 200, "frames_labelled": True, "is_reached": True}
    said = set(limits_of("folder", **limits, is_calibrated=False)) - set(limits_of("folder", **limits))
    assert "calibration ended at a limit" in said.pop()


def test_a_fit_that_did_not_settle_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration_module, "minimize", partial(minimize, options={"maxiter": 3}))
    classes = np.tile([0, 1, 2], 40)
    found = calibrate_scores(np.random.default_rng(0).normal(size=(120, 3)), classes, FINDING)
    assert not found.has_converged


@pytest.mark.parametrize("value", [np.nan, 3.0])
def test_a_fit_that_comes_no_closer_is_dropped(monkeypatch: pytest.MonkeyPatch, value):
    worse = OptimizeResult(x=np.array([4.0, 3.0]), fun=value, success=True)
    monkeypatch.setattr(calibration_module, "minimize", lambda *_, **__: worse)
    classes = np.tile([0, 1, 2], 40)
    logits = np.random.default_rng(0).normal(size=(120, 3))
    found = calibrate_scores(logits, classes, FINDING)
    assert (found.offset, found.temperature) == (0.0, 1.0)
    assert found.loss == pytest.approx(-np.log(softmax(logits)[np.arange(120), classes]).mean())


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_the_temperature_mends_scores_that_are_too_sure_or_not_sure_enough(probe, fresh, new, factor):
    head = replace(probe.head, weight=probe.head.weight * np.float32(factor), bias=probe.head.bias * np.float32(factor))
    scores, classes = case_logits(head, fresh, FINDING), case_classes(fresh, LABELS)
    calibration = calibrate_scores(scores, classes, FINDING)
    after = calibrated(head, calibration, FINDING)
    assert loss(after, new) < loss(replace(after, temperature=1.0), new) - 0.02
    assert after.temperature == pytest.approx(calibration.temperature)


def test_a_limit_for_accuracy_is_where_answers_reach_it():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.4, 1.0, 4000)
    classes = (rng.uniform(size=4000) > top).astype(int)  # right as often as it is confident
    point = operating_point(np.stack([top, 1 - top], axis=1), classes, np.array([False, True]), "accuracy", 0.9)
    # Above t the mean accuracy is about (1 + t) / 2, which is .9 at .8.
    assert point.abstain_below == pytest.approx(0.8, abs=0.03)
    assert point.is_reached


@pytest.mark.parametrize(("aim", "ill"), [("sensitivity", True), ("specificity", False)])
def test_a_limit_for_sensitivity_or_specificity_holds_among_the_answered(aim, ill):
    rng = np.random.default_rng(1)
    is_ill = rng.uniform(size=6000) < 0.5
    score = 1 / (1 + np.exp(-(rng.normal(size=6000) + np.where(is_ill, 1.0, -1.0)) * 2))
    probabilities = np.stack([1 - score, score], axis=1)
    point = operating_point(probabilities, is_ill.astype(int), np.array([False, True]), aim, 0.95)
    answered = (probabilities.max(axis=1) >= point.abstain_below) & (is_ill == ill)
    assert point.is_reached
    assert ((score > 0.5) == ill)[answered].mean() >= 0.95
    lower = (probabilities.max(axis=1) >= point.abstain_below - 0.03) & (is_ill == ill)
    assert ((score > 0.5) == ill)[lower].mean() < 0.95


def test_where_no_limit_reaches_the_aim_half_are_left_to_a_person():
    top = np.linspace(0.6, 0.9, 100)
    probabilities = np.stack([top, 1 - top], axis=1)
    point = operating_point(probabilities, np.tile([0, 1], 50), np.array([False, True]), "accuracy", 0.9)
    assert (point.abstain_below, point.is_reached) == (0.75, False)


def test_neighbours_vote_for_the_class_of_the_cases_around(new):
    easy = [made_up(seed, signal=6.0) for seed in range(120)]
    neighbours = fit_neighbours(easy, LABELS, FINDING, 0)
    test = [made_up(seed, signal=6.0) for seed in range(2000, 2060)]
    probabilities = neighbour_probabilities(neighbours, test, LABELS, FINDING)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == case_classes(test, LABELS)).mean() > 0.7
    assert neighbours.k > 1


def test_the_task_space_brings_cases_of_a_class_together():
    # A strong nuisance, alike in all classes, hides the class from plain cosine.
    def nuisance(case: CaseFeatures) -> CaseFeatures:
        shift = np.random.default_rng(int(case.case.study[1:])).normal(size=2) * 20
        cls = case.cls.copy()
        cls[:, -2:] += shift.astype(np.float32)
        return replace(case, cls=cls)

    training = [nuisance(made_up(seed, signal=6.0)) for seed in range(120)]
    test = [nuisance(made_up(seed, signal=6.0)) for seed in range(2000, 2120)]
    probe = fitted(training)
    choice = fit_projection(training, probe.rows, LABELS, probe.head, FINDING, 0)
    head = replace(probe.head, projection=choice.projection)
    shown, classes = shown_frames(test, head, FINDING), case_classes(test, LABELS)
    projected = head.project(shown)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), 1, atol=1e-5)
    assert precision_at(projected, classes, PATIENTS) > precision_at(unit(shown), classes, PATIENTS) + 0.2


def test_precision_counts_other_patients_only():
    vectors = unit(np.array([[1, 0], [1, 0.01], [0, 1], [0.01, 1]], np.float32))
    classes = np.array([0, 0, 1, 1])
    assert precision_at(vectors, classes, np.array(["a", "b", "c", "d"]), at=1) == 1.0
    assert precision_at(vectors, classes, np.array(["a", "a", "c", "c"]), at=1) == 0.0


def test_unlike_features_lie_farther_than_all_familiar_ones(probe):
    head = replace(probe.head, familiarity=fit_familiarity(probe.head, probe.rows.joined))
    familiar = [study_distance(head, made_up(seed)) for seed in range(3000, 3040)]
    strange = [replace(made_up(seed), joined=made_up(seed).joined + 4) for seed in range(3000, 3040)]
    assert min(study_distance(head, case) for case in strange) > max(familiar)
    with pytest.raises(ValueError, match="no out-of-distribution"):
        study_distance(probe.head, made_up(1))
