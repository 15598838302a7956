"""Splits by patient."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_images import LABELS, case_of

from services.training.dataset.cases import DatasetError
from services.training.dataset.splits import split_cases


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(5, 20), st.integers(1, 3))
def test_no_patient_is_in_two_splits_and_no_case_is_lost(seed, patients, studies):
    cases = [
        case_of(seed=at * 100 + number, label=LABELS[at % 3], patient=f"p{at}")
        for at in range(patients * 3)
        for number in range(studies)
    ]
    parts, how = split_cases(cases, seed)
    seen = {name: {case.patient for case in part} for name, part in parts.items()}
    assert not seen["training"] & seen["test"]
    assert not seen["training"] & seen["calibration"]
    assert not seen["calibration"] & seen["test"]
    assert sum(map(len, parts.values())) == len(cases)
    assert all(case.split == name for name, part in parts.items() for case in part)
    assert f"seed {seed}" in how


def test_three_fifths_train_and_the_classes_are_spread():
    parts, _ = split_cases([case_of(seed) for seed in range(150)], 0)
    assert {name: len(part) for name, part in parts.items()} == {"training": 90, "calibration": 30, "test": 30}
    assert set(Counter(case.label for case in parts["test"]).values()) == {10}


def test_another_seed_gives_another_split():
    cases = [case_of(seed) for seed in range(60)]
    tests = [{case.study for case in split_cases(cases, seed)[0]["test"]} for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


def test_given_splits_are_kept_and_calibration_may_be_drawn():
    cases = [case_of(seed, split="test" if seed % 4 == 0 else "training") for seed in range(72)]
    parts, how = split_cases(cases, 0)
    assert {case.study for case in parts["test"]} == {case.study for case in cases if case.split == "test"}
    assert parts["calibration"]
    assert "calibration drawn" in how


def test_splits_for_some_cases_only_or_without_a_class_are_errors():
    with pytest.raises(DatasetError, match="1 of 3 cases have no split"):
        split_cases([case_of(0, split="test"), case_of(1, split="training"), case_of(2)], 0)
    with pytest.raises(DatasetError, match="training split has 0 cases and none of bar, normal, spot"):
        split_cases([case_of(seed, split="test") for seed in range(9)], 0)
