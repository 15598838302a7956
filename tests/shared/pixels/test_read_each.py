"""A frame that cannot be read is reported, and the rest of its object goes on."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from encoded_images import ENCODERS, NATIVE, encoded
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from synthetic_images import compressed, image, item, part10, saved

from shared.errors import NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.pixels import Frame, FrameError, PixelLimits, read_each, read_frames
from shared.pixels.codecs import DEFLATED_IMAGE_FRAME
from shared.pixels.encapsulation import encapsulated_frames

LIMITS = PixelLimits()
WITH_HEADER = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
PIXELS = np.random.default_rng(0).integers(0, 4096, (3, 24, 36)).astype("<u2")


def streams(syntax: object) -> list[bytes]:
    return [ENCODERS[syntax](np.ascontiguousarray(frame)) for frame in PIXELS]


@pytest.mark.parametrize("syntax", [RLELossless, DEFLATED_IMAGE_FRAME, *WITH_HEADER])
def test_a_corrupt_frame_is_reported_and_the_rest_goes_on(syntax):
    data = encoded(image(PIXELS, bits_stored=12), PIXELS, syntax)
    good = read_frames(data, limits=LIMITS)
    second = streams(syntax)[1]
    at = data.index(second)
    broken = data[:at] + b"\xff" * 64 + data[at + 64 :]
    first, error, third = read_each(broken, limits=LIMITS)
    assert isinstance(error, FrameError)
    assert (error.number, error.reason) == (2, "UndecodablePixelsError")
    assert "frame 2" in error.message
    np.testing.assert_array_equal(first.pixels, good[0].pixels)
    np.testing.assert_array_equal(third.pixels, good[2].pixels)


@pytest.mark.parametrize("syntax", [*NATIVE[:3], RLELossless, *WITH_HEADER])
def test_a_truncated_object_gives_the_frames_before_the_cut(syntax):
    data = encoded(image(PIXELS, bits_stored=12), PIXELS, syntax)
    cut = data[: len(data) - len(data) // 6]
    read = list(read_each(cut, limits=LIMITS))
    assert [type(frame) for frame in read] == [Frame, Frame, FrameError]
    np.testing.assert_array_equal(read[1].pixels, read_frames(data, limits=LIMITS)[1].pixels)


def test_a_frame_that_is_not_there_is_reported():
    read = list(read_each(part10(image(PIXELS)), [2, 4], limits=LIMITS))
    assert read[0].number == 2
    assert read[1] == FrameError(
        4, "UndecodablePixelsError", "Explicit VR Little Endian, frame 4: the object has 3 frames"
    )


@pytest.mark.parametrize(
    ("data", "limits", "error"),
    [
        (b"no DICOM", LIMITS, NotAnImageError),
        (part10(image(PIXELS)), PixelLimits(max_frames=2), OversizedPixelsError),
        (part10(image(PIXELS, SamplesPerPixel=2)), LIMITS, UndecodablePixelsError),
    ],
)
def test_an_object_that_cannot_be_read_at_all_is_an_error(data, limits, error):
    with pytest.raises(error):
        list(read_each(data, limits=limits))


@pytest.mark.parametrize("has_table", [False, True])
def test_frames_in_several_fragments_are_put_together(has_table):
    halves = [half for stream in streams(JPEGLSLossless) for half in (stream[:100], stream[100:])]
    halves = [half + b"\0" * (len(half) % 2) for half in halves]
    offsets = np.cumsum([0] + [16 + len(halves[n]) + len(halves[n + 1]) for n in (0, 2)]).astype("<u4")
    table = offsets.tobytes() if has_table else b""
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in (table, *halves))
    dataset = image(PIXELS, bits_stored=12)
    compressed(dataset, JPEGLSLossless, streams(JPEGLSLossless))
    dataset.PixelData = items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    shown = np.stack([frame.pixels for frame in read_frames(saved(dataset), limits=LIMITS)])
    whole = read_frames(encoded(image(PIXELS, bits_stored=12), PIXELS, JPEGLSLossless), limits=LIMITS)
    np.testing.assert_array_equal(shown, np.stack([frame.pixels for frame in whole]))


@pytest.mark.parametrize("is_extended", [False, True])
def test_an_offset_table_says_which_fragments_are_a_frame(is_extended):
    parts = [b"aa", b"bbbb", b"cc"]  # no ends of code streams to go by
    offsets = [0, 10]
    table = b"" if is_extended else np.array(offsets, "<u4").tobytes()
    data = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part for part in (table, *parts))
    dataset = item(ExtendedOffsetTable=np.array(offsets, "<u8").tobytes()) if is_extended else item()
    frames = encapsulated_frames(data + b"\xfe\xff\xdd\xe0\0\0\0\0", 0, 2, dataset)
    assert [frames.frame(number) for number in (1, 2)] == [b"aa", b"bbbbcc"]
    assert not frames.is_cut_off


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # OpenJPH's, on its way to an error
@pytest.mark.parametrize(
    "syntax", [*NATIVE[:3], *ENCODERS], ids=lambda syntax: getattr(syntax, "keyword", "") or syntax
)
def test_damaged_bytes_give_frames_or_errors_in_every_encoding(syntax):
    data = encoded(image(PIXELS[:2], bits_stored=12), PIXELS[:2], syntax)
    limits = PixelLimits(max_decoded_bytes=20_000_000)
    random = np.random.default_rng(7)
    seen = set()
    for _ in range(60):
        damaged = bytearray(data)
        for at in random.integers(132, len(data), random.integers(1, 9)):
            damaged[at] = random.integers(256)
        end = len(data) if random.random() < 0.7 else int(random.integers(len(data)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                for frame in read_each(bytes(damaged[:end]), limits=limits):
                    seen.add(type(frame))
                    if isinstance(frame, Frame):
                        assert np.isfinite(frame.pixels).all()
                        assert 0.0 <= frame.pixels.min() <= frame.pixels.max() <= 1.0
            except (NotAnImageError, UndecodablePixelsError) as error:
                seen.add(type(error))
    assert len(seen) >= 2


@pytest.mark.parametrize("syntax", WITH_HEADER)
@pytest.mark.parametrize("what", ["size", "samples"])
def test_a_code_stream_that_claims_too_much_is_refused_before_it_is_decoded(syntax, what):
    (stream, *_) = streams(syntax)
    stream = bytearray(stream)
    if stream.startswith(b"\xff\x4f"):
        size_at, samples_at, size, samples = 8, 40, struct.pack(">II", 65000, 65000), struct.pack(">H", 16000)
    else:
        at = max(stream.find(b"\xff\xf7"), stream.find(b"\xff\xc3"))
        size_at, samples_at, size, samples = at + 5, at + 9, struct.pack(">HH", 65000, 65000), b"\xff"
    start, claim = (size_at, size) if what == "size" else (samples_at, samples)
    stream[start : start + len(claim)] = claim
    data = compressed(image(PIXELS[0], bits_stored=12), syntax, [bytes(stream)])
    with pytest.raises(OversizedPixelsError if what == "size" else UndecodablePixelsError, match="frame 1"):
        read_frames(data, limits=PixelLimits(max_decoded_bytes=2_000_000_000))


def test_a_deflated_frame_that_inflates_beyond_its_size_is_refused():
    bomb = ENCODERS[DEFLATED_IMAGE_FRAME](np.zeros(30_000_000, "u1"))
    data = encoded(image(PIXELS[:1], bits_stored=12), PIXELS[:1], DEFLATED_IMAGE_FRAME)
    stream = ENCODERS[DEFLATED_IMAGE_FRAME](PIXELS[0])
    stream += b"\0" * (len(stream) % 2)
    at = data.index(stream)
    bomb += b"\0" * (len(bomb) % 2)
    data = data[: at - 4] + struct.pack("<I", len(bomb)) + bomb + data[at + len(stream) :]
    with pytest.raises(OversizedPixelsError, match="inflates"):
        read_frames(data, limits=LIMITS)
