"""Which frames carry a tag's value."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_images import image, item, part10

from shared.errors import NotAnImageError
from shared.pixels import PixelLimits
from shared.pixels.frame_tags import tag_matches


def matches(dataset, keyword: str, value: str) -> tuple[bool, ...]:
    return tag_matches(part10(dataset), keyword, value, limits=PixelLimits())


def stack(**elements):
    return image(np.zeros((3, 4, 4), np.uint16), **elements)


def test_an_attribute_of_the_object_holds_for_each_frame():
    assert matches(stack(EchoNumbers=2), "EchoNumbers", "2") == (True, True, True)
    assert matches(stack(EchoNumbers=2), "EchoNumbers", "1") == (False, False, False)


def test_one_of_several_values_is_enough_and_case_does_not_count():
    dataset = stack(ImageType=["ORIGINAL", "PRIMARY", "M_SE"])
    assert all(matches(dataset, "ImageType", "m_se"))
    assert not any(matches(dataset, "ImageType", "M_FFE"))


def test_numbers_are_compared_as_numbers():
    assert all(matches(stack(EchoTime="90.0"), "EchoTime", "90"))


def test_a_frames_own_group_goes_before_the_shared_one():
    def echo(time_ms: float):
        return item(EffectiveEchoTime=time_ms)

    dataset = stack(
        SharedFunctionalGroupsSequence=[item(MREchoSequence=[echo(10.0)])],
        PerFrameFunctionalGroupsSequence=[item(MREchoSequence=[echo(90.0)]), item(), item(MREchoSequence=[echo(90.0)])],
    )
    assert matches(dataset, "EffectiveEchoTime", "90") == (True, False, True)
    assert matches(dataset, "EffectiveEchoTime", "10") == (False, True, False)


def test_an_attribute_that_is_nowhere_matches_nothing():
    assert matches(stack(), "EchoTime", "1") == (False, False, False)


def test_what_is_no_image_is_an_error():
    with pytest.raises(NotAnImageError):
        tag_matches(b"text", "EchoTime", "1", limits=PixelLimits())
