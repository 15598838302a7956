"""The probe's parts on made-up features, whose best answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from services.training.features import LEAST_AREA_MM2, StudyFeatures
from services.training.lesion import LABELS
from services.training.phantom import PhantomSpec
from services.training.probe import abstention_threshold, calibrate, fit_head, study_distance, study_logits
from services.training.train import FINDING, split_subjects
from shared.vision.heads import LinearHead

WIDTH = 24


def made_up_study(seed: int, *, signal: float = 2.0, shift: float = 0.0) -> StudyFeatures:
    """Eight frames of noise; a lesion shows in three of them, along its class's own direction."""
    rng = np.random.default_rng(seed)
    label = LABELS[seed % 4]
    joined = rng.normal(size=(8, WIDTH)).astype(np.float32) + np.float32(shift)
    area = np.zeros(8)
    if label != "normal":
        joined[2:5, seed % 4] += signal
        area[2:5] = 10 * LEAST_AREA_MM2
    return StudyFeatures(PhantomSpec(seed, label), joined, area, np.zeros((8, 32, 32), np.float32))


def fitted(**change: float) -> LinearHead:
    studies = [made_up_study(seed, **change) for seed in range(80)]
    head, strength = fit_head(studies, task="brain-mr", labels=LABELS, finding=FINDING, backbone_id="made-up")
    assert strength > 0
    return head


@pytest.fixture(scope="module")
def head() -> LinearHead:
    return fitted()


def classes_of(studies: list[StudyFeatures]) -> np.ndarray:
    return np.array([study.study_class for study in studies])


def test_frames_without_lesion_count_as_normal() -> None:
    assert made_up_study(1).frame_classes().tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert made_up_study(1).study_class == 1


def test_fitting_twice_gives_the_same_head(head: LinearHead) -> None:
    assert fitted().id == head.id


def test_the_probe_finds_the_classes_and_calibration_helps_on_new_studies(head: LinearHead) -> None:
    fresh = [made_up_study(seed) for seed in range(1000, 1120)]
    new = [made_up_study(seed) for seed in range(2000, 2120)]
    calibrated = calibrate(head, study_logits(head, fresh, FINDING), classes_of(fresh), FINDING)

    def loss(one: LinearHead) -> float:
        chosen = one.probabilities(study_logits(one, new, FINDING))[np.arange(len(new)), classes_of(new)]
        return -float(np.log(chosen).mean())

    assert loss(calibrated) < loss(head)
    assert (study_logits(calibrated, new, FINDING).argmax(axis=1) == classes_of(new)).mean() > 0.6


def test_the_calibration_offset_moves_every_frame_alike(head: LinearHead) -> None:
    studies = [made_up_study(seed) for seed in range(1000, 1080)]
    before = study_logits(head, studies, FINDING)
    calibrated = calibrate(head, before, classes_of(studies), FINDING)
    change = study_logits(calibrated, studies, FINDING) - before
    assert np.allclose(change[:, FINDING], 0, atol=1e-5)
    assert np.allclose(change[:, ~FINDING], change[0, 0], atol=1e-5)
    assert abs(change[0, 0]) > 0.05


def test_the_threshold_is_where_answers_reach_nine_in_ten() -> None:
    rng = np.random.default_rng(0)
    top = rng.uniform(0.4, 1.0, 4000)
    classes = (rng.uniform(size=4000) > top).astype(int)  # right as often as it is confident
    probabilities = np.stack([top, 1 - top], axis=1)
    # Above t the mean accuracy is about (1 + t) / 2, which is .9 at .8; below .5 the second class is the top one.
    assert abstention_threshold(probabilities, classes) == pytest.approx(0.8, abs=0.03)


def test_without_a_good_threshold_half_are_left_to_a_person() -> None:
    top = np.linspace(0.6, 0.9, 100)
    probabilities = np.stack([top, 1 - top], axis=1)
    assert abstention_threshold(probabilities, np.tile([0, 1], 50)) == pytest.approx(0.75, abs=0.01)


def test_unlike_features_lie_farther_than_all_familiar_ones(head: LinearHead) -> None:
    familiar = [study_distance(head, made_up_study(seed)) for seed in range(3000, 3040)]
    strange = [study_distance(head, made_up_study(seed, shift=4.0)) for seed in range(3000, 3040)]
    assert 0.8 < np.median(familiar) < 1.2
    assert min(strange) > max(familiar)


def test_subjects_are_split_without_overlap() -> None:
    split = split_subjects(400, seed=2)
    groups = (split.training, split.calibration, split.test)
    assert [len(group) for group in groups] == [240, 80, 80]
    assert len(set().union(*groups)) == 400
    assert not set(split.training) & set(split_subjects(400, seed=3).training)
    with pytest.raises(ValueError, match="40"):
        split_subjects(39, seed=0)
