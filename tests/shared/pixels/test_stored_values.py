"""Stored values are those of pydicom's own decoders, of every compressed file that it can decode."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEGBaseline8Bit, JPEGTransferSyntaxes
from synthetic_images import image, part10

from shared.errors import NotAnImageError, UndecodablePixelsError
from shared.pixels import PixelLimits, read_frames
from shared.pixels.codecs import decode_frame
from shared.pixels.colour import to_rgb
from shared.pixels.encapsulation import encapsulated_frames
from shared.pixels.header import open_image, transfer_syntax
from shared.pixels.image_pixel import ImagePixel
from shared.pixels.native import native_frame

LIMITS = PixelLimits()
EXTERNAL = importlib.util.find_spec("data_store")
FOLDERS = [Path(pydicom.__file__).parent / "data"]
if EXTERNAL and EXTERNAL.origin:
    FOLDERS.append(Path(EXTERNAL.origin).parent / "data")


def is_compressed(path: Path) -> bool:
    try:
        return open_image(path.read_bytes(), LIMITS).length is None
    except (NotAnImageError, UndecodablePixelsError):
        return False


FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.dcm") if is_compressed(path))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.name[:2] == "RG" else (), id=path.name) for path in FILES],
)
def test_the_stored_values_are_those_of_pydicom(path):
    source = open_image(path.read_bytes(), LIMITS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        syntax, pixel = transfer_syntax(source.dataset), ImagePixel.of(source.dataset, source.keyword)
        try:
            # Of baseline JPEG by libjpeg-turbo, in Pillow: pylibjpeg's colours are up to 5 off it, and off DCMTK's.
            plugin = "pillow" if syntax == JPEGBaseline8Bit else ""
            decoder = get_decoder(syntax)
            expected, described = decoder.as_array(pydicom.dcmread(path), index=0, decoding_plugin=plugin)
        except (RuntimeError, AttributeError):  # damaged on purpose, or JPEG of 12 bits: see test_dcmtk_oracle.py
            return
        frames = encapsulated_frames(source.data, source.value_at, pixel.frames, source.dataset)
        values, photometric = decode_frame(frames.frame(1), syntax, pixel, LIMITS)
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        values = np.rint(to_rgb(values, photometric, pixel) * 255)
        photometric = "RGB"
    assert photometric in (described["photometric_interpretation"], "YBR_RCT", "YBR_ICT")
    difference = np.abs(values.astype(np.int64) - expected.astype(np.int64)).max()
    is_lossy = syntax in JPEGTransferSyntaxes and "Lossless" not in syntax.keyword
    assert difference <= (1 if is_lossy else 0)  # of the inverse DCT (ISO/IEC 10918-2), or of the colour matrix


@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_422", "YBR_PARTIAL_420"])
def test_partial_range_colour_is_that_of_the_standard(photometric):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(float)
    # PS3.3 section C.7.6.3.1.2, as printed there
    matrix = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])
    samples = np.rint(rgb @ matrix.T + [16, 128, 128]).astype("u1")
    dataset = image(samples, SamplesPerPixel=3, PhotometricInterpretation=photometric)
    shown = to_rgb(samples, photometric, ImagePixel.of(dataset, "PixelData"))
    np.testing.assert_allclose(shown, rgb / 255, atol=1.6 / 255)


def test_halved_partial_range_colour_is_read_uncompressed():
    grey = np.repeat(np.array([[16, 235, 126, 50]], "u1"), 2, axis=0)
    dataset = image(np.zeros((2, 4, 3), "u1"), SamplesPerPixel=3, PhotometricInterpretation="YBR_PARTIAL_422")
    middle = np.full((2, 2), 128, "u1")
    dataset.PixelData = np.stack([grey[:, ::2], grey[:, 1::2], middle, middle], axis=-1).tobytes()
    (frame,) = read_frames(part10(dataset), limits=LIMITS)
    np.testing.assert_allclose(frame.pixels, np.repeat((grey[..., None] - 16.0) / 219, 3, axis=-1), atol=1e-6)


@pytest.mark.parametrize("is_signed", [False, True])
def test_unused_bits_are_cleared_wherever_the_used_ones_lie(is_signed):
    values = np.arange(-8 if is_signed else 0, 8).reshape(2, -1)
    bits = values & 0xF
    expected = values if is_signed else bits
    for high_bit in (3, 11, 15):
        cells = ((bits << (high_bit - 3)) | (0xF0F0 & ~(0xF << (high_bit - 3)))).astype("<u2")
        dataset = image(cells, bits_stored=4, PixelRepresentation=int(is_signed), HighBit=high_bit)
        pixel = ImagePixel.of(dataset, "PixelData")
        stored = native_frame(memoryview(dataset.PixelData), pixel, 1, is_little_endian=True)
        np.testing.assert_array_equal(stored, expected)
