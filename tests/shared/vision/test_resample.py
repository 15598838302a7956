"""Resampling by matrix products is Pillow's resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.vision.resample import resized


def pillow(image, height, width):
    if image.ndim == 3:
        return np.stack([pillow(np.ascontiguousarray(image[..., c]), height, width) for c in range(3)], axis=-1)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 300)] * 4), st.booleans(), st.integers(0, 2**16))
def test_it_is_pillows_to_rounding(sizes, is_colour, seed):
    rows, columns, height, width = sizes
    image = np.random.default_rng(seed).random((rows, columns, 3) if is_colour else (rows, columns), np.float32)
    assert np.abs(resized(image, height, width) - pillow(image, height, width)).max() < 2e-6


@pytest.mark.parametrize("shape", [(512, 512), (2000, 333), (256, 256, 3)])
def test_it_is_pillows_on_usual_sizes(shape):
    image = np.random.default_rng(1).random(shape, np.float32)
    assert np.abs(resized(image, 224, 224) - pillow(image, 224, 224)).max() < 1e-6


def test_a_view_that_is_not_contiguous_is_read_right():
    image = np.random.default_rng(2).random((60, 80), np.float32)
    np.testing.assert_array_equal(resized(image.T[::2], 20, 30), resized(np.ascontiguousarray(image.T[::2]), 20, 30))


def test_the_same_size_is_the_image_itself():
    image = np.random.default_rng(3).random((40, 50), np.float32)
    np.testing.assert_allclose(resized(image, 40, 50), image, atol=1e-7)
