"""DICOM bytes to display-ready frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from synthetic_images import COMPRESSED, NATIVE, image, item, part10

from shared.pixels import Frame, PixelLimits, iter_frames, read_frames

LIMITS = PixelLimits()


def one(dataset: object, syntax: str = ExplicitVRLittleEndian) -> Frame:
    (frame,) = read_frames(part10(dataset, syntax), limits=LIMITS)
    assert frame.pixels.dtype == np.float32
    assert frame.pixels.min() >= 0.0
    assert frame.pixels.max() <= 1.0
    return frame


def ramp(dtype: str, low: int, high: int, shape: tuple[int, int] = (40, 48)) -> np.ndarray:
    return np.linspace(low, high, shape[0] * shape[1]).astype(dtype).reshape(shape)


DEPTHS = [
    ("u1", 8, 0, 255),
    ("<u2", 10, 0, 1023),
    ("<u2", 12, 3, 4095),
    ("<u2", 16, 0, 65535),
    ("<i2", 16, -1000, 3000),
]


@pytest.mark.parametrize(
    ("syntax", "dtype", "bits", "low", "high"),
    [
        pytest.param(syntax, *depth, id=f"{syntax.keyword}-{depth[0]}-{depth[1]}")
        for syntax in (*NATIVE, *COMPRESSED)
        for depth in DEPTHS
        if (syntax, depth[0]) != (JPEGLSLossless, "<i2")  # JPEG-LS encodes no signed values
    ],
)
def test_the_same_pixels_give_the_same_frame_in_every_encoding(syntax, dtype, bits, low, high):
    pixels = ramp(dtype, low, high)
    expected = np.clip((pixels - low) / (high - low), 0, 1)
    window = {"WindowCenter": (low + high) / 2, "WindowWidth": high - low, "VOILUTFunction": "LINEAR_EXACT"}
    shown = one(image(pixels, bits_stored=bits, **window), syntax).pixels
    np.testing.assert_allclose(shown, expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["<u4", "<i4"])
def test_32_bit_pixels_keep_their_order(dtype):
    pixels = ramp(dtype, 0, 2**31 - 1)
    shown = one(image(pixels)).pixels
    assert (np.diff(shown.ravel()) >= 0).all()
    assert len(np.unique(shown)) > 700


def test_1_bit_pixels_are_black_and_white():
    bits = np.random.default_rng(0).integers(0, 2, (5, 10, 10), np.uint8)
    dataset = image(bits, bits_stored=1)
    dataset.BitsAllocated, dataset.PixelData = 1, np.packbits(bits, bitorder="little").tobytes() + b"\0"
    frames = read_frames(part10(dataset), limits=LIMITS)
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), bits)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_float_pixels_are_shown_and_what_is_not_finite_is_black(dtype):
    pixels = ramp(dtype, 0, 1) + 5
    pixels[0, :2] = np.nan, np.inf
    shown = one(image(pixels)).pixels
    np.testing.assert_array_equal(shown[0, :2], 0)
    assert (np.diff(shown.ravel()[2:]) >= 0).all()
    assert shown.max() == 1


def test_monochrome1_is_inverted():
    pixels = ramp("<u2", 0, 4095)
    straight = one(image(pixels)).pixels
    inverted = one(image(pixels, PhotometricInterpretation="MONOCHROME1")).pixels
    np.testing.assert_allclose(inverted, 1 - straight, atol=1e-7)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("dtype", "padding"), [("<i2", -2000), ("<u2", 63536)])
def test_padding_is_black_and_does_not_count_for_the_window(photometric, dtype, padding):
    pixels = ramp(dtype, 100, 200)
    unpadded = one(image(pixels[4:], PhotometricInterpretation=photometric)).pixels
    padded_pixels = pixels.copy()
    padded_pixels[:4] = padding
    dataset = image(padded_pixels, PhotometricInterpretation=photometric, PixelPaddingValue=padding)
    shown = one(dataset).pixels
    np.testing.assert_array_equal(shown[:4], 0)
    np.testing.assert_allclose(shown[4:], unpadded, atol=1e-6)


def test_a_padding_range_is_black():
    pixels = ramp("<u2", 0, 999)
    shown = one(image(pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=99)).pixels
    assert (shown[pixels <= 99] == 0).all()
    assert (shown[pixels > 120] > 0).all()


def test_the_linear_window_is_that_of_the_standard():
    # PS3.3 section C.11.2.1.2.1, its own example: c = 2048, w = 4096 maps 0 to 0 and 4095 to 1.
    pixels = ramp("<u2", 0, 4095)
    shown = one(image(pixels, bits_stored=12, WindowCenter=2048, WindowWidth=4096)).pixels
    np.testing.assert_allclose(shown, pixels / 4095, atol=1e-6)


def test_a_window_of_width_1_is_a_threshold():
    pixels = ramp("<u2", 0, 99)
    shown = one(image(pixels, WindowCenter=50, WindowWidth=1)).pixels
    np.testing.assert_array_equal(shown, (pixels >= 50).astype(np.float32))


def test_the_sigmoid_window_is_half_at_its_center():
    pixels = ramp("<u2", 0, 200)
    shown = one(image(pixels, WindowCenter=100, WindowWidth=50, VOILUTFunction="SIGMOID")).pixels
    expected = 1 / (1 + np.exp(-4 * (pixels - 100.0) / 50))
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_the_first_of_several_windows_counts():
    pixels = ramp("<u2", 0, 1000)
    several = one(image(pixels, WindowCenter=[100, 500], WindowWidth=[50, 1000])).pixels
    first = one(image(pixels, WindowCenter=100, WindowWidth=50)).pixels
    np.testing.assert_array_equal(several, first)


def test_a_useless_window_is_ignored():
    pixels = ramp("<u2", 0, 1000)
    plain = one(image(pixels)).pixels
    for window in ({"WindowCenter": 5, "WindowWidth": 0}, {"WindowCenter": "", "WindowWidth": ""}):
        np.testing.assert_array_equal(one(image(pixels, **window)).pixels, plain)


def test_rescale_comes_before_the_window():
    pixels = ramp("<u2", 0, 2000)
    dataset = image(pixels, modality="CT", RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    values = pixels - 1024.0
    np.testing.assert_allclose(one(dataset).pixels, np.clip((values - 39.5) / 399 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("body_part", "center", "width"), [("ABDOMEN", 40, 400), ("HEAD", 40, 80), ("LUNG", -600, 1500)]
)
def test_a_ct_without_a_window_gets_one_by_body_part(body_part, center, width):
    pixels = ramp("<i2", -1000, 1000)
    rescaled = {"RescaleSlope": 1, "RescaleIntercept": 0, "BodyPartExamined": body_part}
    fallback = one(image(pixels, modality="CT", **rescaled)).pixels
    named = one(image(pixels, modality="CT", WindowCenter=center, WindowWidth=width, **rescaled)).pixels
    np.testing.assert_array_equal(fallback, named)


def test_an_mr_without_a_window_is_shown_between_its_percentiles():
    pixels = ramp("<u2", 0, 1000, (100, 100))
    pixels[0, 0] = 60000  # one hot pixel must not darken the rest
    shown = one(image(pixels)).pixels
    assert shown[50, 50] == pytest.approx(0.5, abs=0.02)


def test_a_constant_image_is_black():
    assert one(image(np.full((8, 8), 700, "<u2"))).pixels.max() == 0


def test_the_modality_lut_is_applied():
    pixels = ramp("<u2", 0, 15, (4, 4))
    table = item(LUTDescriptor=[16, 0, 16], ModalityLUTType="US", LUTData=list(range(0, 160, 10)))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    window = {"WindowCenter": 75, "WindowWidth": 150, "VOILUTFunction": "LINEAR_EXACT"}
    shown = one(image(pixels, bits_stored=4, ModalityLUTSequence=[table], **window)).pixels
    np.testing.assert_allclose(shown, pixels * 10 / 150, atol=1e-6)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_the_voi_lut_is_applied_and_clamps_beyond_its_ends(vr):
    pixels = np.arange(16, dtype="<u2").reshape(4, 4)
    entries = [0, 100, 200, 1023]
    table = item(LUTDescriptor=[4, 5, 10])
    table["LUTDescriptor"].VR = "US"
    table.add_new(0x00283006, vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    shown = one(image(pixels, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)).pixels
    expected = np.array(entries)[np.clip(pixels.astype(int) - 5, 0, 3)] / 1023
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_each_frame_of_an_enhanced_object_has_its_own_rescale_and_window():
    pixels = np.stack([ramp("<u2", 0, 1000), ramp("<u2", 0, 1000)])
    per_frame = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0)],
            FrameVOILUTSequence=[item(WindowCenter=center, WindowWidth=100)],
        )
        for slope, center in ((1, 200), (2, 700))
    ]
    shared_group = item(PixelMeasuresSequence=[item(PixelSpacing=[2, 1])])
    dataset = image(pixels, PerFrameFunctionalGroupsSequence=per_frame, SharedFunctionalGroupsSequence=[shared_group])
    frames = read_frames(part10(dataset), limits=LIMITS)
    for frame, slope, center in zip(frames, (1, 2), (200, 700), strict=True):
        expected = np.clip((pixels[0] * slope - (center - 0.5)) / 99 + 0.5, 0, 1)
        np.testing.assert_allclose(frame.pixels, expected, atol=1e-5)
        assert frame.pixel_aspect == 2.0


def test_only_the_wanted_frames_are_read_in_the_wanted_order():
    pixels = np.stack([np.full((4, 4), value, "u1") for value in (10, 20, 30, 40)])
    data = part10(image(pixels), RLELossless)
    frames = read_frames(data, frame_numbers=[4, 2], limits=LIMITS)
    assert [frame.number for frame in frames] == [4, 2]
    assert [round(frame.pixels[0, 0] * 255) for frame in frames] == [40, 20]


def test_frames_come_one_by_one():
    frames = iter_frames(part10(image(np.zeros((3, 4, 4), "u1"))), limits=LIMITS)
    assert next(frames).number == 1
    assert [frame.number for frame in frames] == [2, 3]


@pytest.mark.parametrize(
    ("element", "aspect"),
    [
        ({"PixelSpacing": [1.5, 0.5]}, 3.0),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, 2.0),
        ({"PixelAspectRatio": [1, 2]}, 0.5),
        ({"PixelSpacing": [0, 0]}, 1.0),
        ({"PixelSpacing": [1, 1e-9]}, 1.0),
        ({}, 1.0),
    ],
)
def test_the_pixel_aspect_is_height_by_width(element, aspect):
    assert one(image(np.zeros((4, 4), "u1"), **element)).pixel_aspect == pytest.approx(aspect)


COLOURS = np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("planar", "syntax"),
    [(0, ExplicitVRLittleEndian), (1, ExplicitVRLittleEndian), (0, RLELossless), (0, JPEG2000Lossless)],
)
def test_rgb_is_scaled_to_one(planar, syntax):
    rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": planar}
    dataset = image(COLOURS, **rgb)
    if planar:
        dataset.PixelData = np.ascontiguousarray(COLOURS.transpose(2, 0, 1)).tobytes()
    np.testing.assert_allclose(one(dataset, syntax).pixels, COLOURS / 255, atol=1e-6)


@pytest.mark.parametrize("is_subsampled", [False, True])
def test_ybr_becomes_rgb(is_subsampled):
    from pydicom.pixels.processing import convert_color_space

    grey_pairs = np.repeat(COLOURS[:, ::2], 2, axis=1)  # equal neighbours survive 4:2:2
    ybr = convert_color_space(grey_pairs, "RGB", "YBR_FULL")
    photometric = "YBR_FULL_422" if is_subsampled else "YBR_FULL"
    dataset = image(ybr, SamplesPerPixel=3, PhotometricInterpretation=photometric, PlanarConfiguration=0)
    if is_subsampled:
        first, second = ybr[:, ::2], ybr[:, 1::2]
        dataset.PixelData = np.stack([first[..., 0], second[..., 0], first[..., 1], first[..., 2]], axis=-1).tobytes()
    np.testing.assert_allclose(one(dataset).pixels, grey_pairs / 255, atol=0.02)


def test_palette_colours_are_looked_up():
    pixels = np.arange(16, dtype="u1").reshape(4, 4)
    table = np.random.default_rng(2).integers(0, 65536, (3, 16)).astype("<u2")
    tables = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [16, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = table[channel].tobytes()
    dataset = image(pixels, PhotometricInterpretation="PALETTE COLOR", **tables)
    np.testing.assert_allclose(one(dataset).pixels, table[:, pixels].transpose(1, 2, 0) / 65535, atol=1e-6)


@given(
    pixels=npst.arrays(np.int16, (6, 7)),
    slope=st.floats(0.01, 50),
    intercept=st.integers(-2000, 2000),
    window=st.none() | st.tuples(st.integers(-3000, 3000), st.integers(1, 5000)),
    modality=st.sampled_from(["CT", "MR", "CR"]),
)
@settings(max_examples=60, deadline=None)
def test_brighter_stored_values_are_never_shown_darker(pixels, slope, intercept, window, modality):
    elements = {"RescaleSlope": f"{slope:.6g}", "RescaleIntercept": intercept}
    if window:
        elements |= {"WindowCenter": window[0], "WindowWidth": window[1]}
    straight = one(image(pixels, modality=modality, **elements)).pixels
    order = np.argsort(pixels.ravel(), kind="stable")
    assert (np.diff(straight.ravel()[order]) >= 0).all()
    inverted = one(image(pixels, modality=modality, PhotometricInterpretation="MONOCHROME1", **elements)).pixels
    np.testing.assert_allclose(inverted, 1 - straight, atol=1e-6)
