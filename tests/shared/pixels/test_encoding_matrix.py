"""Transfer syntax x photometric interpretation x bits x sign: the same stored values give the same frame."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from encoded_images import ENCODERS, NATIVE, converted_by, encoded
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from synthetic_images import image, part10

from shared.errors import UndecodablePixelsError
from shared.pixels import PixelLimits, read_frames
from shared.pixels.codecs import DECODERS

LIMITS = PixelLimits()
SYNTAXES = (*NATIVE, *ENCODERS)
ROWS, COLUMNS = np.mgrid[:24, :36]
NOISE = np.random.default_rng(0)


def grey(dtype: str, bits: int, frames: int = 2) -> np.ndarray:
    """(N, 24, 36): smooth shapes and noise over the whole range that `bits` give."""
    smooth = np.stack([np.sin(COLUMNS / (5 + n)) * np.cos(ROWS / 7) for n in range(frames)])
    unit = np.clip(0.5 + 0.55 * smooth + NOISE.normal(0, 0.02, smooth.shape), 0, 1)
    values = np.rint(unit * (2**bits - 1))
    return (values - (2 ** (bits - 1) if dtype[-2] == "i" else 0)).astype(dtype)


def name(syntax: object) -> str:
    return getattr(syntax, "keyword", "") or str(syntax)


DEPTHS = [("u1", 8), ("<u2", 10), ("<u2", 12), ("<u2", 16), ("<i2", 12), ("<i2", 16)]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=name)
@pytest.mark.parametrize(("dtype", "bits"), DEPTHS, ids=lambda part: str(part).strip("<"))
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_grey_values_are_the_same_in_every_encoding(syntax, dtype, bits, photometric):
    pixels = grey(dtype, bits)
    lowest = -(2.0 ** (bits - 1)) if dtype[-2] == "i" else 0.0
    window = {"WindowCenter": lowest + 2.0 ** (bits - 1), "WindowWidth": 2.0**bits}
    dataset = image(pixels, bits_stored=bits, PhotometricInterpretation=photometric, **window)
    frames = read_frames(encoded(dataset, pixels, syntax), limits=LIMITS)
    expected = (pixels - lowest) / (2**bits - 1)
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    assert len(frames) == len(pixels)
    np.testing.assert_allclose(np.stack([frame.pixels for frame in frames]), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["<u4", "<i4"])
@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless], ids=name)
def test_32_bit_values_are_the_same_in_every_encoding_that_takes_them(syntax, dtype):
    pixels = grey(dtype, 32)
    lowest = float(np.iinfo(dtype).min)
    window = {"WindowCenter": lowest + 2.0**31, "WindowWidth": 2.0**32}
    data = encoded(image(pixels, **window), pixels, syntax)
    shown = np.stack([frame.pixels for frame in read_frames(data, limits=LIMITS)])
    np.testing.assert_allclose(shown, (pixels - lowest) / (2.0**32 - 1), atol=1e-6)


COLOURS = np.stack([grey("u1", 8)[0], grey("u1", 8)[1], grey("u1", 8)[0].T.reshape(24, 36)], axis=-1)[None]


def transforms_colour(syntax: object) -> bool:
    return "JPEG2000" in name(syntax) or "HTJ2K" in name(syntax)


COLOUR_CASES = [
    (syntax, photometric)
    for syntax in SYNTAXES
    for photometric in ("RGB", "YBR_FULL")
    if not (transforms_colour(syntax) and photometric == "YBR_FULL")  # these have a transform of their own
]


@pytest.mark.parametrize(("syntax", "photometric"), COLOUR_CASES, ids=name)
def test_colour_is_the_same_in_every_encoding(syntax, photometric):
    stored = COLOURS if photometric == "RGB" else convert_color_space(COLOURS, "RGB", "YBR_FULL")
    dataset = image(stored, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation=photometric)
    if transforms_colour(syntax):
        dataset.PhotometricInterpretation = "YBR_RCT"
    (frame,) = read_frames(encoded(dataset, stored, syntax), limits=LIMITS)
    atol = 1e-6 if photometric == "RGB" else 1.5 / 255  # RGB to YCbCr rounds
    np.testing.assert_allclose(frame.pixels, COLOURS[0] / 255, atol=atol)


@pytest.mark.parametrize("syntax", [*NATIVE[:2], DeflatedExplicitVRLittleEndian, RLELossless], ids=name)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("is_segmented", [False, True])
def test_palette_colour_is_the_same_in_every_encoding(syntax, bits, is_segmented):
    indices = np.arange(12 * 16, dtype="u1").reshape(1, 12, 16) % 40
    dtype = "u1" if bits == 8 else "<u2"
    ramp = np.rint(np.linspace(10, 50, 21)[1:])
    tables = {}
    expected = []
    for colour, offset in (("Red", 0), ("Green", 100), ("Blue", 200)):
        # 20 equal entries, then 20 on a straight line
        table = np.concatenate([np.full(20, 10), ramp]) + offset
        expected.append(table / (2**bits - 1))
        segments = np.array([0, 1, 10 + offset, 1, 19, 10 + offset, 1, 20, 50 + offset])
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [40, 0, bits]
        prefix = "Segmented" if is_segmented else ""
        data = (segments if is_segmented else table).astype(dtype).tobytes()
        tables[f"{prefix}{colour}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    dataset = image(indices, PhotometricInterpretation="PALETTE COLOR", **tables)
    (frame,) = read_frames(encoded(dataset, indices, syntax), limits=LIMITS)
    if bits == 16:  # no entry beyond 255: taken for 8-bit colours in 16-bit entries
        expected = [channel * 65535 / 255 for channel in expected]
    np.testing.assert_allclose(frame.pixels, np.stack(expected, axis=-1)[indices[0]], atol=1e-6)


PROGRAMS = [
    (["/usr/bin/dcmcrle"], RLELossless, "RGB", "u1", 8),
    (["/usr/bin/dcmcrle"], RLELossless, "MONOCHROME2", "<i2", 16),
    (["/usr/bin/dcmcjpls"], JPEGLSLossless, "MONOCHROME2", "<u2", 12),
    (["/usr/bin/dcmcjpls"], JPEGLSLossless, "RGB", "u1", 8),
    (["/usr/bin/dcmcjpls", "+en", "+md", "1"], JPEGLSNearLossless, "MONOCHROME2", "<u2", 16),
    (["/usr/bin/dcmcjpeg", "+e1"], JPEGLosslessSV1, "MONOCHROME2", "<u2", 16),
    (["/usr/bin/dcmcjpeg", "+e1"], JPEGLosslessSV1, "MONOCHROME2", "<i2", 16),
    (["/usr/bin/dcmcjpeg", "+el", "+sv", "4"], JPEGLossless, "MONOCHROME2", "<u2", 12),
    (["/usr/bin/dcmcjpeg", "+el"], JPEGLossless, "RGB", "u1", 8),
    (["/usr/bin/dcmcjpeg", "+eb", "+q", "100"], JPEGBaseline8Bit, "MONOCHROME2", "u1", 8),
    (["/usr/bin/dcmcjpeg", "+eb", "+q", "100", "+s4"], JPEGBaseline8Bit, "RGB", "u1", 8),
    (["/usr/bin/dcmcjpeg", "+eb", "+q", "100", "+cr", "+s4"], JPEGBaseline8Bit, "RGB", "u1", 8),
    (["/usr/bin/dcmcjpeg", "+ee", "+q", "100", "+bt"], JPEGExtended12Bit, "MONOCHROME2", "<u2", 12),
    (["/usr/bin/gdcmconv", "--j2k"], "1.2.840.10008.1.2.4.90", "MONOCHROME2", "<i2", 12),
    (["/usr/bin/gdcmconv", "--j2k"], "1.2.840.10008.1.2.4.90", "RGB", "u1", 8),
    (["/usr/bin/gdcmconv", "--jpeg"], JPEGLosslessSV1, "MONOCHROME2", "<u2", 12),
    (["/usr/bin/gdcmconv", "--jpegls"], JPEGLSLossless, "MONOCHROME2", "<u2", 16),
]


def test_every_transfer_syntax_with_a_decoder_is_in_the_matrix():
    lossy = {JPEGBaseline8Bit, JPEGExtended12Bit}  # by other programs, below
    assert set(DECODERS) - lossy <= set(ENCODERS)


@pytest.mark.peers
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: "-".join((*program[0], *map(str, program[2:]))))
def test_what_other_programs_encode_gives_the_same_frame(program, tmp_path):
    command, syntax, photometric, dtype, bits = program
    if not shutil.which(command[0]):
        if os.environ.get("SIMILIS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{command[0]} is not installed, and SIMILIS_REQUIRE_PEERS=1")
        pytest.skip(f"{command[0]} is not installed")
    pixels = COLOURS if photometric == "RGB" else grey(dtype, bits)
    extra = {"SamplesPerPixel": 3, "PlanarConfiguration": 0} if photometric == "RGB" else {}
    lowest = -(2.0 ** (bits - 1)) if dtype[-2] == "i" else 0.0
    window = {} if extra else {"WindowCenter": lowest + 2.0 ** (bits - 1), "WindowWidth": 2.0**bits}
    dataset = image(pixels, bits_stored=bits, PhotometricInterpretation=photometric, **extra, **window)
    plain = part10(dataset)
    data = converted_by(command, plain, tmp_path)
    assert str(syntax).encode() in data[:1000]
    shown, expected = (np.stack([f.pixels for f in read_frames(file, limits=LIMITS)]) for file in (data, plain))
    is_lossy = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
    # Of noise at quality 100; the colour matrix and back rounds twice.
    atol = (4 if photometric == "RGB" else 2) / 255 if is_lossy else 1e-6
    np.testing.assert_allclose(shown, expected, atol=atol)


@pytest.mark.parametrize("syntax", [syntax for syntax in ENCODERS if syntax in DECODERS], ids=name)
def test_a_code_stream_of_other_samples_than_the_data_set_is_refused(syntax):
    dataset = image(COLOURS, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
    data = encoded(dataset, COLOURS[..., 0], syntax)
    with pytest.raises(UndecodablePixelsError, match="1 samples per pixel, the data set says 3"):
        read_frames(data, limits=LIMITS)
