"""What cannot be shown ends in one of two errors, and costs little."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from synthetic_images import compressed, image, part10, saved

from shared.errors import NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.pixels import PixelLimits, read_frames, read_header
from shared.pixels.codestream import read_codestream

LIMITS = PixelLimits()
DATA = Path(pydicom.__file__).parent / "data"
PIXELS = np.random.default_rng(0).integers(0, 4096, (32, 32)).astype("<u2")


def read(data: bytes, limits: PixelLimits = LIMITS) -> None:
    read_frames(data, limits=limits)


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm", "reportsi.dcm"])
def test_an_object_without_pixels_is_not_an_image(name):
    data = (DATA / "test_files" / name).read_bytes()
    for function in (read_frames, read_header):
        with pytest.raises(NotAnImageError, match="holds no pixels"):
            function(data, limits=LIMITS)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"\x08\x00" * 100])
def test_what_is_not_dicom_is_not_an_image(data):
    with pytest.raises(NotAnImageError):
        read(data)


def test_an_image_object_that_lost_its_pixels_is_undecodable():
    dataset = image(PIXELS)
    del dataset.PixelData
    with pytest.raises(UndecodablePixelsError, match="pixel data is missing"):
        read(part10(dataset))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_truncated_file_is_undecodable_and_names_syntax_and_frame(syntax):
    data = part10(image(PIXELS, bits_stored=12), syntax)
    with pytest.raises(UndecodablePixelsError, match=r"(, frame 1|not readable as DICOM)"):
        read(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_corrupt_code_stream_is_undecodable_and_names_syntax_and_frame(syntax):
    garbage = np.random.default_rng(1).bytes(500)
    with pytest.raises(UndecodablePixelsError, match="frame 1"):
        read(compressed(image(PIXELS, bits_stored=12), syntax, [garbage]))


def test_a_corrupt_frame_does_not_spoil_the_others():
    good = image(np.stack([PIXELS] * 3))
    part10(good, RLELossless)
    frames = [get_frame(good.PixelData, index, number_of_frames=3) for index in range(3)]
    frames[1] = b"\xff" * 64
    data = compressed(image(np.stack([PIXELS] * 3)), RLELossless, frames)
    assert [frame.number for frame in read_frames(data, frame_numbers=[1, 3], limits=LIMITS)] == [1, 3]
    with pytest.raises(UndecodablePixelsError, match="RLE Lossless, frame 2"):
        read_frames(data, frame_numbers=[2], limits=LIMITS)


def test_an_unknown_transfer_syntax_is_undecodable():
    data = compressed(image(PIXELS), "1.2.840.113619.5.2.99", [b"\0" * 64])
    with pytest.raises(UndecodablePixelsError):
        read(data)


def test_a_frame_that_is_not_there_is_refused():
    with pytest.raises(UndecodablePixelsError, match="has 1 frames, not a frame 2"):
        read_frames(part10(image(PIXELS)), frame_numbers=[1, 2], limits=LIMITS)


@pytest.mark.parametrize(
    "limits", [PixelLimits(max_frame_pixels=1023), PixelLimits(max_decoded_bytes=4095), PixelLimits(max_frames=2)]
)
def test_each_limit_is_kept(limits):
    data = part10(image(np.stack([PIXELS] * 3)))
    with pytest.raises(OversizedPixelsError):
        read(data, limits)


def test_an_image_at_the_limits_is_read():
    data = part10(image(PIXELS))
    limits = PixelLimits(max_frame_pixels=1024, max_decoded_bytes=4096, max_frames=1)
    assert len(read_frames(data, limits=limits)) == 1


def test_a_header_that_claims_a_huge_image_costs_nothing():
    dataset = image(PIXELS)
    dataset.Rows = dataset.Columns = 65535
    data = part10(dataset)
    tracemalloc.start()
    with pytest.raises(OversizedPixelsError, match="4294836225 pixels"):
        read(data)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_code_stream_that_claims_a_huge_image_is_refused_before_decoding(syntax):
    data = bytearray(part10(image(PIXELS, bits_stored=12), syntax))
    if syntax == JPEGLSLossless:
        at = data.index(b"\xff\xf7") + 5
        data[at : at + 4] = struct.pack(">HH", 65000, 65000)
    else:
        at = data.index(b"\xff\x4f\xff\x51") + 8
        data[at : at + 8] = struct.pack(">II", 65000, 65000)
    with pytest.raises(OversizedPixelsError):
        read(bytes(data))


def test_a_jp2_box_of_length_0_is_refused_and_does_not_loop_for_ever():
    boxes = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\0\0\0\0ftyp" + b"\0" * 40
    with pytest.raises(UndecodablePixelsError, match="JP2 box of length 0"):
        read(compressed(image(PIXELS, bits_stored=12), JPEG2000Lossless, [boxes]))


def test_a_code_stream_of_another_size_than_the_data_set_is_refused():
    dataset = image(PIXELS, bits_stored=12)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    dataset.Rows = 16
    with pytest.raises(UndecodablePixelsError, match="32 x 32, the data set says 16 x 32"):
        read(saved(dataset))


def test_a_deflated_data_set_that_inflates_beyond_the_limit_is_refused():
    data = part10(image(PIXELS), DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack("<I", data[140:144])[0]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(b"\0" * 50_000_000) + deflater.flush()
    tracemalloc.start()
    with pytest.raises(OversizedPixelsError, match="inflates"):
        read(data[:start] + bomb, PixelLimits(max_decoded_bytes=10_000_000))
    assert tracemalloc.get_traced_memory()[1] < 13_000_000  # the limit and little more, not the 50 MB
    tracemalloc.stop()


def test_a_deflated_object_that_is_nearly_empty_is_read_whole():
    pixels = np.zeros((2500, 3000), "<u2")
    pixels[-1, -1] = 1
    data = part10(image(pixels, WindowCenter=1, WindowWidth=2), DeflatedExplicitVRLittleEndian)
    assert len(data) < 30_000
    (frame,) = read_frames(data, limits=LIMITS)
    assert frame.pixels[-1, -1] == 1
    assert frame.pixels.sum() == 1


@pytest.mark.parametrize("path", sorted(path for path in DATA.rglob("*") if path.is_file()), ids=lambda path: path.name)
def test_every_file_of_pydicom_gives_frames_or_one_of_our_errors(path):
    try:
        frames = read_frames(path.read_bytes(), limits=LIMITS)
    except (NotAnImageError, UndecodablePixelsError):
        return
    for frame in frames:
        assert frame.pixels.dtype == np.float32
        assert 0.0 <= frame.pixels.min() <= frame.pixels.max() <= 1.0


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_damaged_bytes_give_frames_or_one_of_our_errors(data):
    name = data.draw(
        st.sampled_from(["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "examples_palette.dcm"])
    )
    damaged = bytearray((DATA / "test_files" / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(132, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    keep = data.draw(st.booleans())
    try:
        frames = read_frames(
            bytes(damaged if keep else damaged[:cut]), limits=PixelLimits(max_decoded_bytes=50_000_000)
        )
    except (NotAnImageError, UndecodablePixelsError):
        return
    assert all(np.isfinite(frame.pixels).all() for frame in frames)


@pytest.mark.parametrize(
    "name",
    [
        "JPEG2000.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "JPGExtended.dcm",
    ],
)
def test_the_size_in_a_code_stream_is_found(name):
    dataset = pydicom.dcmread(DATA / "test_files" / name)
    stream = read_codestream(get_frame(dataset.PixelData, 0, number_of_frames=1))
    assert (stream.rows, stream.columns, stream.components) == (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    assert stream.precision <= dataset.BitsAllocated


@pytest.mark.parametrize(
    "encoded", [b"", b"\xff\xd8", b"\xff\xd8\x00", b"\xff\x4f\xff\x51\0", b"\xff\xd8" + b"\xff" * 50, b"abc"]
)
def test_a_code_stream_without_a_size_says_so(encoded):
    assert read_codestream(encoded) is None
