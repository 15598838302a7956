"""Frame to model input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.pixels.frame import Frame
from shared.vision.transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    letterbox_box,
    letterboxed,
    squares_of_inputs,
    to_model_input,
)

MEAN, STD = (np.array(values, np.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


def shown(frame: Frame, size: int) -> np.ndarray:
    return to_model_input(frame, size) * STD + MEAN


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.05, 20), st.integers(1, 1024))
def test_the_content_lies_in_the_square_centred_and_fills_one_side(height, width, aspect, size):
    box = letterbox_box(height, width, aspect, size)
    assert box.height >= 1
    assert box.width >= 1
    assert max(box.height, box.width) == size
    assert abs((size - box.height) - 2 * box.top) <= 1
    assert abs((size - box.width) - 2 * box.left) <= 1


@pytest.mark.parametrize(
    ("shape", "aspect", "expected"),
    [
        ((512, 512), 1.0, (224, 224)),
        ((256, 512), 1.0, (112, 224)),
        ((256, 512), 2.0, (224, 224)),
        ((100, 50), 0.5, (224, 224)),
    ],
)
def test_the_physical_aspect_is_kept(shape, aspect, expected):
    box = letterbox_box(*shape, aspect, 224)
    assert (box.height, box.width) == expected


def test_the_bars_are_black_and_the_content_is_the_image():
    frame = Frame(np.full((50, 100), 0.75, np.float32), 1)
    image = shown(frame, 112)
    box = letterbox_box(50, 100, 1.0, 112)
    np.testing.assert_allclose(image[:, : box.top], 0, atol=1e-6)
    np.testing.assert_allclose(image[:, box.top + box.height :], 0, atol=1e-6)
    np.testing.assert_allclose(image[:, box.top : box.top + box.height], 0.75, atol=1e-6)


def test_grey_is_repeated_and_colour_keeps_its_channels():
    grey = np.random.default_rng(0).random((28, 28)).astype(np.float32)
    image = shown(Frame(grey, 1), 28)
    for channel in image:
        np.testing.assert_allclose(channel, grey, atol=1e-6)
    colour = np.random.default_rng(1).random((28, 28, 3)).astype(np.float32)
    np.testing.assert_allclose(shown(Frame(colour, 1), 28), colour.transpose(2, 0, 1), atol=1e-6)


def test_the_input_is_float32_and_contiguous_enough_for_torch():
    image = to_model_input(Frame(np.zeros((10, 20, 3), np.float32), 1), 14)
    assert image.dtype == np.float32
    assert image.shape == (3, 14, 14)


def test_fine_differences_of_a_16_bit_image_survive():
    base = np.full((64, 64), 0.5, np.float32)
    finer = base + np.float32(2.0**-15)
    assert (letterboxed(Frame(finer, 1), 28) > letterboxed(Frame(base, 1), 28)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 2**16))
def test_values_stay_between_black_and_white(height, width, seed):
    frame = Frame((np.random.default_rng(seed).random((height, width)) > 0.5).astype(np.float32), 1)
    image = letterboxed(frame, 56)
    assert image.min() >= 0.0
    assert image.max() <= 1.0


def test_a_square_image_is_close_to_the_hugging_face_processor():
    from transformers import BitImageProcessorPil

    y, x = np.mgrid[:400, :400] / 400
    picture = np.stack([x, y, (np.sin(20 * x) + 1) / 2], axis=-1).astype(np.float32)
    processor = BitImageProcessorPil(
        do_center_crop=False,
        size={"height": 224, "width": 224},
        resample=3,
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
    )
    theirs = processor((picture * 255).round().astype(np.uint8), return_tensors="np")["pixel_values"][0]
    ours = to_model_input(Frame(picture, 1), 224)
    # Theirs cuts to 8 bits before and after resampling: half a step of 1/255 twice, in units of the smallest
    # standard deviation.
    assert np.abs(ours - theirs).max() < 2 / 2 / 255 / min(IMAGENET_STD) + 1e-3


def test_squares_come_back_from_model_inputs():
    rng = np.random.default_rng(5)
    frames = [Frame(rng.random(shape, np.float32), 1) for shape in ((40, 30), (40, 30, 3), (28, 28))]
    squares = squares_of_inputs(np.stack([to_model_input(frame, 28) for frame in frames]))
    assert [square.ndim for square in squares] == [2, 3, 2]
    for square, frame in zip(squares, frames, strict=True):
        np.testing.assert_allclose(square, letterboxed(frame, 28), atol=1e-6)
