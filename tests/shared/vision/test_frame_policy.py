"""Which frames of a series are used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.vision.frame_policy import FramesPolicy


def choose(count: int, **policy: object) -> list[int]:
    return FramesPolicy.model_validate(policy).choose([True] * count)


def test_the_default_is_evenly_up_to_sixty_four():
    assert choose(3) == [0, 1, 2]
    chosen = choose(200)
    assert len(chosen) == 64
    assert (chosen[0], chosen[-1]) == (0, 199)


def test_all_frames_are_all_unless_thinned():
    assert choose(200, policy="all") == list(range(200))
    assert choose(9, policy="all", max=3) == [0, 4, 8]


def test_every_third_frame_starts_with_the_first():
    assert choose(10, policy="every", every=3) == [0, 3, 6, 9]
    assert choose(10, policy="every", every=3, max=2) == [0, 9]


def test_by_tag_the_matching_frames_are_chosen():
    policy = FramesPolicy(policy="tag", tag="EchoNumbers", value="2", max=2)
    assert policy.choose([False, True, True, False, True]) == [1, 4]
    assert policy.choose([False, False]) == []


def test_a_number_in_the_yaml_is_a_value():
    assert FramesPolicy.model_validate({"policy": "tag", "tag": "EchoTime", "value": 90}).value == "90"


@pytest.mark.parametrize(
    "policy",
    [
        {"policy": "every"},
        {"policy": "evenly", "every": 2},
        {"policy": "tag", "tag": "EchoTime"},
        {"policy": "tag", "value": "1"},
        {"policy": "all", "tag": "EchoTime", "value": "1"},
        {"policy": "tag", "tag": "not a keyword", "value": "1"},
        {"policy": "sometimes"},
        {"max": 0},
        {"most": 3},
    ],
)
def test_a_policy_that_contradicts_itself_is_an_error(policy):
    with pytest.raises(ValidationError):
        FramesPolicy.model_validate(policy)


@given(
    st.lists(st.booleans(), max_size=300),
    st.sampled_from([{"policy": "all"}, {"policy": "every", "every": 4}, {"policy": "evenly"}]),
    st.one_of(st.none(), st.integers(1, 80)),
)
def test_a_choice_is_ascending_distinct_and_within_its_limit(matches, policy, most):
    chosen = FramesPolicy.model_validate({**policy, "max": most}).choose(matches)
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < len(matches) for index in chosen)
    assert most is None or len(chosen) <= most
    assert not matches or chosen
