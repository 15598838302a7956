from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.training.dataset.cases import Case, CaseImages
from services.training.features.case_features import CaseFeatures
from services.training.fit.lens import can_fit_lens, fit_lens, fit_lens_of, through

LABELS = ("normal", "spot", "bar")
FINDING = np.array([False, True, True])
DIM, PATCHES, FRAMES = 12, 36, 2


def case(seed: int, label: str, source: str = "") -> CaseFeatures:
    """A case whose lesion's patches point another way; the rest, and the joined features, are noise."""
    rng = np.random.default_rng([seed, LABELS.index(label)])
    patches = rng.normal(size=(FRAMES, PATCHES, DIM))
    coverage = np.zeros((FRAMES, PATCHES), np.float32)
    if label != "normal":
        coverage[:, 5:8] = 0.9
        coverage[:, 8] = 0.1  # grazed: neither one nor the other
        patches[:, 5:8, LABELS.index(label)] += 4.0
    images = CaseImages((), ())
    return CaseFeatures(
        case=Case(study=f"{seed}-{label}", patient=str(seed), label=label, load=lambda: images, source=source),
        cls=rng.normal(size=(FRAMES, 4)).astype(np.float32),
        joined=rng.normal(size=(FRAMES, 16)).astype(np.float32),
        thumbnails=np.zeros((FRAMES, 32, 32, 3), np.float32),
        frame_labels=(label,) * FRAMES,
        names=("a", "b"),
        object_hashes=("", ""),
        pixel_hashes=("", ""),
        subgroup={},
        patches=patches.astype(np.float16),
        coverage=coverage,
    )


def cases(seeds: range, source: str = "") -> list[CaseFeatures]:
    return [case(seed, label, source) for seed in seeds for label in LABELS]


def test_the_lens_finds_what_the_masks_show() -> None:
    lens = fit_lens(cases(range(12)), LABELS, FINDING, 0)
    unseen = case(99, "bar")
    assert unseen.patches is not None
    found = lens.logits(unseen.patches).argmax(axis=2)
    assert (found[:, 5:8] == 2).mean() > 0.8
    assert (np.delete(found, slice(5, 9), axis=1) == 0).mean() > 0.9


def test_training_cases_are_shown_through_a_lens_that_has_not_seen_them() -> None:
    training, test = cases(range(6), "one") + cases(range(6, 12), "two"), cases(range(20, 22))
    fit = fit_lens_of({"training": training, "test": test}, LABELS, FINDING, "source", 0)
    of_two = fit_lens([one for one in training if one.case.source == "two"], LABELS, FINDING, 0)
    for before, after in zip(training, fit.parts["training"], strict=True):
        assert after.case is before.case
        shown = through(of_two, before).joined
        assert np.array_equal(after.joined, shown) == (before.case.source == "one")
    for before, after in zip(test, fit.parts["test"], strict=True):
        np.testing.assert_array_equal(after.joined, through(fit.lens, before).joined)
        np.testing.assert_array_equal(after.joined[:, :16], before.joined)
        assert after.patches is None


def test_the_same_cases_give_the_same_lens() -> None:
    first, second = (fit_lens(cases(range(6)), LABELS, FINDING, 3) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)


def test_a_lens_needs_masks_of_every_finding() -> None:
    complete = cases(range(3))
    assert can_fit_lens(complete, LABELS, FINDING)
    assert not can_fit_lens([*complete, replace(complete[0], patches=None)], LABELS, FINDING)
    assert not can_fit_lens([*complete, replace(complete[0], coverage=None)], LABELS, FINDING)
    assert not can_fit_lens([one for one in complete if one.label != "bar"], LABELS, FINDING)
    assert not can_fit_lens(complete, LABELS, np.array([True, True, True]))


def uncovered(one: CaseFeatures) -> CaseFeatures:
    assert one.coverage is not None
    return replace(one, coverage=np.minimum(one.coverage, np.float32(0.1)))


def test_there_is_no_lens_where_a_fold_would_not_know_a_finding() -> None:
    training = cases(range(12))
    few = [uncovered(one) if one.label == "bar" and one.case.patient not in ("3", "4") else one for one in training]
    assert can_fit_lens(training, LABELS, FINDING, "patient", 0)
    assert not can_fit_lens(few, LABELS, FINDING, "patient", 0)  # the fold without patient 3 has one patient left
    twins = [replace(one, case=replace(one.case, patient=str(int(one.case.patient) % 2))) for one in training]
    assert not can_fit_lens(twins, LABELS, FINDING, "patient", 0)
    covered = [replace(one, coverage=np.ones_like(one.coverage)) for one in training]
    assert not can_fit_lens(covered, LABELS, FINDING, "patient", 0)


def test_two_sources_are_enough_where_both_show_every_finding() -> None:
    training = cases(range(6), "one") + cases(range(6, 12), "two")
    assert can_fit_lens(training, LABELS, FINDING, "source", 0)
    one_sided = [uncovered(one) if (one.label, one.case.source) == ("bar", "two") else one for one in training]
    assert not can_fit_lens(one_sided, LABELS, FINDING, "source", 0)


def test_a_lens_is_never_fitted_with_a_class_missing() -> None:
    without = [uncovered(one) if one.label == "spot" else one for one in cases(range(3))]
    with pytest.raises(ValueError, match="covered patches of each finding"):
        fit_lens(without, LABELS, FINDING, 0)


def test_one_finding_gives_two_rows() -> None:
    two = [one for one in cases(range(12)) if one.label != "bar"]
    lens = fit_lens(two, LABELS[:2], FINDING[:2], 0)
    assert lens.weight.shape == (2, DIM)
    unseen = case(99, "spot")
    assert unseen.patches is not None
    assert (lens.logits(unseen.patches).argmax(axis=2)[:, 5:8] == 1).mean() > 0.8


def test_without_patches_there_is_nothing_to_look_through() -> None:
    lens = fit_lens(cases(range(3)), LABELS, FINDING, 0)
    with pytest.raises(ValueError, match="patches"):
        through(lens, replace(case(1, "spot"), patches=None))
