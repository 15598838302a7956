"""What an object claims of itself is believed as far as its bytes bear it out."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from synthetic_images import COMPRESSED, NATIVE, compressed, image, part10, saved

from shared.errors import OversizedPixelsError, UndecodablePixelsError
from shared.pixels import Frame, FrameError, PixelLimits, read_each, read_frames, read_header
from shared.pixels.frame_tags import tag_matches

LIMITS = PixelLimits()
PIXELS = np.random.default_rng(0).integers(0, 4096, (5, 32, 32)).astype("<u2")
GREYS = [40 * number for number in range(1, 6)]
STREAMS = [bytes(imagecodecs.jpeg8_encode(np.full((32, 32), grey, np.uint8), level=95)) for grey in GREYS]


def jpeg(fragments: list[bytes], *, is_complete: bool = True, syntax: str = JPEGBaseline8Bit) -> bytes:
    """Five frames, `GREYS`, in these fragments, without an offset table."""
    dataset = image(np.zeros((5, 32, 32), "u1"), WindowCenter=128, WindowWidth=256)
    compressed(dataset, syntax, STREAMS)
    parts = [part + b"\0" * (len(part) % 2) for part in (b"", *fragments)]
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in parts)
    dataset.PixelData = items
    data = saved(dataset)
    return data if is_complete else data[: data.rindex(b"\xfe\xff\xdd\xe0")]


def greys(data: bytes) -> list[int | str]:
    shown = read_each(data, limits=LIMITS)
    return [round(float(frame.pixels.mean() * 255)) if isinstance(frame, Frame) else frame.reason for frame in shown]


def test_a_code_stream_that_lacks_its_end_keeps_its_number():
    whole = STREAMS
    lacking = whole[1][:-2]
    assert greys(jpeg([whole[0][:100], whole[0][100:], lacking, *whole[2:]])) == GREYS
    assert greys(jpeg([whole[0], lacking, *whole[2:]])) == GREYS
    damaged_start = b"\0\0\0\0" + whole[1][4:]
    assert greys(jpeg([whole[0], damaged_start, *whole[2:]])) == [40, "UndecodablePixelsError", 120, 160, 200]


@pytest.mark.parametrize(
    "fragments",
    [
        STREAMS[:4],
        [*STREAMS, STREAMS[0]],
        [STREAMS[0][:100], STREAMS[0][100:], *STREAMS[1:4]],  # as many fragments as frames
        [
            *STREAMS[:2],
            STREAMS[2][:-2],
            b"\0\0" + STREAMS[3][2:],
            STREAMS[4],
        ],  # the third has no end, the next no start
    ],
)
def test_without_a_table_the_number_of_code_streams_must_be_that_of_the_frames(fragments):
    with pytest.raises(UndecodablePixelsError, match=r"JPEG Baseline .*: without an offset table"):
        list(read_each(jpeg(fragments), limits=LIMITS))


@pytest.mark.parametrize("fragments", [[b"\1\0\0\0" * 20] * 4, [b"\1\0\0\0" * 20] * 6])
def test_what_is_no_code_stream_has_a_fragment_for_each_frame(fragments):
    with pytest.raises(UndecodablePixelsError, match="RLE Lossless: without an offset table"):
        list(read_each(jpeg(fragments, syntax=RLELossless), limits=LIMITS))


def test_of_an_object_cut_off_without_a_table_the_first_frames_are_read():
    first = [STREAMS[0][:100], STREAMS[0][100:], *STREAMS[1:3]]
    assert greys(jpeg(first, is_complete=False)) == [40, 80, 120, "UndecodablePixelsError", "UndecodablePixelsError"]


def claiming(frames: int, syntax: str) -> bytes:
    dataset = image(PIXELS, bits_stored=12)
    part10(dataset, syntax)
    dataset.NumberOfFrames = frames
    return saved(dataset)


@pytest.mark.parametrize("syntax", [*(syntax for syntax in NATIVE if "Big" not in syntax.keyword), *COMPRESSED])
def test_more_frames_than_the_pixels_can_hold_are_not_believed(syntax):
    data = claiming(4_000_000, syntax=syntax)
    for function in (read_header, lambda data, limits: tag_matches(data, "Modality", "MR", limits=limits)):
        tracemalloc.start()
        with pytest.raises(UndecodablePixelsError, match=r"^more frames are claimed than the pixel data can hold$"):
            function(data, limits=LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED])
def test_as_many_frames_as_the_pixels_hold_are_believed(syntax):
    assert read_header(part10(image(PIXELS, bits_stored=12), syntax), limits=LIMITS).number_of_frames == 5


@pytest.mark.parametrize(
    ("pixels", "elements", "frames", "too_many"),
    [
        (np.zeros((1, 9), "u1"), {"Rows": 3, "Columns": 3, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, 8, 9),
        (np.zeros((4, 8), "u1"), {"Rows": 4, "Columns": 4, "PhotometricInterpretation": "YBR_FULL_422"}, 1, 2),
        (np.zeros((8, 4, 2), "f4"), {}, 8, 9),
        (np.zeros((8, 4, 2), "f8"), {}, 8, 9),
        (np.zeros((3, 3, 1), "u1"), {}, 3, 5),  # 9 bytes and one of padding
    ],
)
def test_frames_are_counted_in_bits_of_their_layout(pixels, elements, frames, too_many):
    dataset = image(pixels, **elements)
    if elements.get("PhotometricInterpretation"):
        dataset.SamplesPerPixel = 3
    dataset.NumberOfFrames = frames
    assert read_header(saved(dataset), limits=LIMITS).number_of_frames == frames
    dataset.NumberOfFrames = too_many
    with pytest.raises(UndecodablePixelsError):
        read_header(saved(dataset), limits=LIMITS)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_of_a_native_object_cut_off_the_frames_that_are_there_and_the_cut_one_are_told(syntax):
    data = part10(image(PIXELS, bits_stored=12), syntax)[:-2200]
    assert read_header(data, limits=LIMITS).number_of_frames == 4
    read = list(read_each(data, limits=LIMITS))
    assert [type(frame) for frame in read] == [Frame, Frame, Frame, FrameError, FrameError]


def test_a_length_that_the_object_does_not_have_is_not_believed():
    dataset = image(PIXELS, bits_stored=12)
    dataset.NumberOfFrames = 2_000_000  # of 4 GB
    data = saved(dataset)
    at = data.rindex(struct.pack("<I", PIXELS.nbytes))
    data = data[:at] + struct.pack("<I", 0xFFFFFFFE) + data[at + 4 :]
    assert read_header(data, limits=LIMITS).number_of_frames == 6


def deflated(pixels: np.ndarray, **elements: object) -> bytes:
    return part10(image(pixels, **elements), DeflatedExplicitVRLittleEndian)


@pytest.mark.parametrize("frames", [1, 4])
def test_the_header_of_a_deflated_object_is_read_without_its_pixels(frames):
    data = deflated(np.zeros((frames, 2000, 1000), "<u2"), InstanceNumber=3)
    tracemalloc.start()
    header = read_header(data, limits=LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 2_500_000  # of 4 or 16 MB
    tracemalloc.stop()
    assert (header.number_of_frames, header.instance_number) == (frames, 3)


def test_a_deflated_object_is_held_once_while_its_frames_are_read():
    data = deflated(np.zeros((8, 1000, 1000), "<u2"))
    tracemalloc.start()
    read_frames(data, frame_numbers=[8], limits=LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 16_000_000 * 1.3 + 12_000_000  # the object, and a frame's own arrays
    tracemalloc.stop()


def test_the_limit_of_inflating_holds_for_headers():
    data = deflated(np.zeros((8, 1000, 1000), "<u2"))
    with pytest.raises(OversizedPixelsError, match="inflates"):
        read_header(data, limits=PixelLimits(max_decoded_bytes=10_000_000))
    start = 144 + struct.unpack("<I", data[140:144])[0]
    element = struct.pack("<HH2sHI", 9, 0x1010, b"OB", 0, 50_000_000)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = data[:start] + deflater.compress(element + b"\0" * 50_000_000) + deflater.flush()
    with pytest.raises(OversizedPixelsError, match="inflates"):
        read_header(bomb, limits=PixelLimits(max_decoded_bytes=10_000_000))


def test_a_deflated_object_cut_off_gives_the_frames_before_the_cut():
    pixels = np.random.default_rng(0).integers(0, 4096, (3, 64, 64)).astype("<u2")
    data = deflated(pixels, bits_stored=12)
    cut = data[: len(data) * 5 // 6]
    assert read_header(cut, limits=LIMITS).number_of_frames == 3
    read = list(read_each(cut, limits=LIMITS))
    assert [type(frame) for frame in read] == [Frame, Frame, FrameError]
    np.testing.assert_array_equal(read[1].pixels, read_frames(data, limits=LIMITS)[1].pixels)


@pytest.mark.parametrize(
    ("pixels", "elements"),
    [
        (np.array([[-1.7e308, 1.7e308]]), {}),
        (np.array([[0, 1, 5]], "<u2"), {"RescaleSlope": "1e308", "RescaleIntercept": "0"}),
        (np.array([[-1.7e308, 1.7e308]]), {"RescaleSlope": "10", "RescaleIntercept": "0"}),
    ],
)
def test_values_beyond_what_can_be_computed_are_one_frames_error_and_never_nan(pixels, elements):
    (shown,) = read_each(part10(image(pixels, **elements)), limits=LIMITS)
    if isinstance(shown, Frame):
        assert np.isfinite(shown.pixels).all()
    else:
        assert "beyond what can be computed" in shown.message


def test_an_infinite_window_is_an_error():
    data = part10(image(np.array([[-1.7e308, 1.7e308]])))
    with pytest.raises(UndecodablePixelsError, match="beyond what can be computed"):
        read_frames(data, limits=LIMITS)


def test_jpeg_2000_in_several_fragments_without_a_table_is_put_together():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32)).astype("u1")
    streams = [bytes(imagecodecs.jpeg2k_encode(frame, reversible=True, codecformat="j2k")) for frame in pixels]
    halves = [part for stream in streams for part in (stream[:100], stream[100:])]
    shown = read_frames(jpeg(halves, syntax=JPEG2000Lossless), limits=LIMITS)
    whole = read_frames(jpeg(streams, syntax=JPEG2000Lossless), limits=LIMITS)
    for one, other in zip(shown, whole, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
