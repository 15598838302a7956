"""What must hold of the display transform whatever the pixels: drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydicom import Dataset
from synthetic_images import image, item

from shared.pixels.attributes import FrameAttributes
from shared.pixels.grey import display_values
from shared.pixels.window import PERCENTILES, percentiles

FEW = settings(max_examples=80, deadline=None)
SHAPE = (9, 11)


def shown(pixels: np.ndarray, **elements: object) -> np.ndarray:
    """The frame's display values, as `read_frames` makes them of stored values."""
    dataset = image(np.zeros(SHAPE, pixels.dtype), **elements)
    dataset.set_original_encoding(False, True, None)
    values, _ = display_values(pixels, FrameAttributes(dataset, ()))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    return values


def lut(entries: list[int], first: int, bits: int) -> Dataset:
    table = item(LUTDescriptor=[len(entries), first, bits])
    table["LUTDescriptor"].VR = "US"
    table.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return table


INTEGERS = st.sampled_from(["u1", "<u2", "<i2", "<u4", "<i4"]).flatmap(lambda dtype: npst.arrays(dtype, SHAPE))
FLOATS = st.sampled_from(["<f4", "<f8"]).flatmap(lambda dtype: npst.arrays(dtype, SHAPE))
WINDOWS = st.none() | st.tuples(
    st.floats(-5000, 5000), st.floats(1, 9000), st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])
)
RESCALES = st.none() | st.tuples(st.floats(1e-3, 100), st.floats(-5000, 5000))
MODALITIES = st.sampled_from(["CT", "MR", "CR", "PT"])


def window(drawn: tuple[float, float, str] | None) -> dict[str, object]:
    if drawn is None:
        return {}
    return {"WindowCenter": f"{drawn[0]:.6g}", "WindowWidth": f"{drawn[1]:.6g}", "VOILUTFunction": drawn[2]}


def rescale(drawn: tuple[float, float] | None) -> dict[str, object]:
    return {} if drawn is None else {"RescaleSlope": f"{drawn[0]:.6g}", "RescaleIntercept": f"{drawn[1]:.6g}"}


@given(INTEGERS | FLOATS, RESCALES, WINDOWS, MODALITIES)
@FEW
def test_brighter_stored_values_are_never_shown_darker(pixels, drawn_rescale, drawn_window, modality):
    values = shown(pixels, modality=modality, **rescale(drawn_rescale), **window(drawn_window))
    finite = np.isfinite(pixels)
    order = np.argsort(pixels[finite], kind="stable")
    assert (np.diff(values[finite][order]) >= 0).all()


@given(INTEGERS, RESCALES, WINDOWS, MODALITIES)
@FEW
def test_monochrome1_is_monochrome2_inverted(pixels, drawn_rescale, drawn_window, modality):
    elements = {"modality": modality, **rescale(drawn_rescale), **window(drawn_window)}
    straight = shown(pixels, **elements)
    np.testing.assert_array_equal(shown(pixels, PhotometricInterpretation="MONOCHROME1", **elements), 1 - straight)
    np.testing.assert_array_equal(shown(pixels, PresentationLUTShape="INVERSE", **elements), 1 - straight)


@given(
    npst.arrays("<i2", SHAPE), st.integers(-3000, 3000), st.integers(2, 4000), st.integers(1, 8), st.integers(-999, 999)
)
@FEW
def test_a_window_moves_with_the_rescale(pixels, center, width, slope, intercept):
    plain = shown(pixels, WindowCenter=center, WindowWidth=width, VOILUTFunction="LINEAR_EXACT")
    moved = shown(
        pixels,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=center * slope + intercept,
        WindowWidth=width * slope,
        VOILUTFunction="LINEAR_EXACT",
    )
    np.testing.assert_allclose(moved, plain, atol=2e-6)


@given(npst.arrays("<u2", SHAPE), st.integers(0, 60000), st.integers(2, 60000))
@FEW
def test_the_linear_window_is_the_formula_of_the_standard(pixels, center, width):
    values = shown(pixels, WindowCenter=center, WindowWidth=width)
    x, c, w = pixels.astype(float), float(center), float(width)
    expected = np.where(
        x <= c - 0.5 - (w - 1) / 2,
        0.0,
        np.where(x > c - 0.5 + (w - 1) / 2, 1.0, (x - (c - 0.5)) / (w - 1) + 0.5),
    )
    np.testing.assert_allclose(values, expected, atol=2e-6)


@given(npst.arrays("<i2", SHAPE), npst.arrays(np.bool_, SHAPE), st.integers(-32768, 32767), WINDOWS, MODALITIES)
@FEW
def test_padding_is_black_and_changes_no_other_pixel(pixels, is_padded, padding, drawn_window, modality):
    pixels = np.where(pixels == padding, padding ^ 1, pixels).astype("<i2")
    if is_padded.all():
        is_padded[0, 0] = False
    elements = {"modality": modality, **window(drawn_window)}
    padded = shown(np.where(is_padded, padding, pixels).astype("<i2"), PixelPaddingValue=padding, **elements)
    assert (padded[is_padded] == 0).all()
    rest = pixels[~is_padded].reshape(1, -1)
    np.testing.assert_array_equal(padded[~is_padded], shown(rest, **elements)[0])


@given(
    npst.arrays("<u2", (40, 40), elements=st.integers(0, 300)),
    st.lists(st.integers(0, 4095), min_size=1, max_size=256),
    st.integers(0, 200),
    st.booleans(),
)
@FEW
def test_values_looked_up_once_for_all_are_those_of_each_pixel(pixels, entries, first, is_modality):
    """Frames with more pixels than values take another path than small ones."""
    table = {"ModalityLUTSequence" if is_modality else "VOILUTSequence": [lut(entries, first, 12)]}
    sigmoid = {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}
    large = shown(pixels, **table, **sigmoid)
    for row in (0, 17):
        small = pixels[row : row + 1, :5]
        np.testing.assert_array_equal(large[row : row + 1, :5], shown(small, **table, **sigmoid))
    looked_up = np.array(entries)[np.clip(pixels.astype(int) - first, 0, len(entries) - 1)]
    expected = 1 / (1 + np.exp(-4 * (looked_up - 2000.0) / 900)) if is_modality else looked_up / 4095
    np.testing.assert_allclose(large, expected, atol=1e-6)


@given(st.sampled_from(["u1", "<u2", "<i2"]).flatmap(lambda dtype: npst.arrays(dtype, st.integers(1, 300))))
@FEW
def test_counted_percentiles_are_those_of_numpy(values):
    np.testing.assert_allclose(
        percentiles(values), np.percentile(values.astype(float), PERCENTILES), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("elements", "notes"),
    [
        ({"WindowCenter": [1, 2, 3], "WindowWidth": [9, 9, 9]}, ("first-of-3-windows",)),
        ({"WindowCenter": 1, "WindowWidth": 9}, ()),
        ({"WindowCenter": 1, "WindowWidth": 0}, ("useless-window", "fallback-window-mr-percentile")),
        ({"modality": "CR"}, ("fallback-window-percentile",)),
        ({"modality": "CT", "RescaleSlope": 1}, ("fallback-window-ct-soft-tissue",)),
        ({"modality": "CT", "RescaleSlope": 1, "BodyPartExamined": "LUNG"}, ("fallback-window-ct-lung",)),
        ({"BitsStored": 8}, ("fallback-full-range",)),
        ({"WindowCenter": 1, "WindowWidth": 9, "PresentationLUTShape": "INVERSE"}, ("presentation-lut-inverse",)),
        ({"VOILUTSequence": [lut([0, 255], 0, 8)] * 2}, ("first-of-2-voi-luts",)),
    ],
)
def test_what_was_chosen_is_noted(elements, notes):
    dataset = image(np.zeros(SHAPE, "<u2"), **elements)
    dataset.set_original_encoding(False, True, None)
    _, noted = display_values(np.zeros(SHAPE, "<u2"), FrameAttributes(dataset, ()))
    assert noted == notes
