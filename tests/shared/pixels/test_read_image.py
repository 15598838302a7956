"""Uploaded PNG and JPEG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shared.errors import NotAnImageError, OversizedPixelsError, UndecodablePixelsError
from shared.pixels import PixelLimits, read_image

LIMITS = PixelLimits()
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_grey_png_is_exact():
    np.testing.assert_allclose(read_image(saved(Image.fromarray(GREY)), limits=LIMITS).pixels, GREY / 255, atol=1e-6)


def test_a_16_bit_png_keeps_its_depth():
    deep = (GREY.astype(np.uint16) << 8) + 77
    np.testing.assert_allclose(read_image(saved(Image.fromarray(deep)), limits=LIMITS).pixels, deep / 65535, atol=1e-6)


def test_a_colour_png_is_exact():
    frame = read_image(saved(Image.fromarray(COLOUR)), limits=LIMITS)
    np.testing.assert_allclose(frame.pixels, COLOUR / 255, atol=1e-6)
    assert frame.pixels.dtype == np.float32


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read(mode):
    picture = Image.fromarray(GREY).convert(mode)
    frame = read_image(saved(picture, "JPEG", quality=95), limits=LIMITS)
    assert frame.pixels.shape[:2] == (16, 16)
    assert frame.pixels.mean() == pytest.approx(0.5, abs=0.05)


def test_a_grey_picture_saved_in_colour_becomes_grey():
    picture = Image.fromarray(np.repeat(GREY[..., None], 3, axis=2))
    assert read_image(saved(picture), limits=LIMITS).pixels.shape == (16, 16)


def test_transparent_pixels_are_black():
    rgba = np.dstack([COLOUR, np.zeros((10, 12), np.uint8)])
    assert read_image(saved(Image.fromarray(rgba)), limits=LIMITS).pixels.max() == 0


@pytest.mark.parametrize("mode", ["1", "P", "LA"])
def test_other_png_modes_are_read(mode):
    frame = read_image(saved(Image.fromarray(GREY).convert(mode)), limits=LIMITS)
    assert 0.0 <= frame.pixels.min() <= frame.pixels.max() <= 1.0


@pytest.mark.parametrize(
    "data", [b"", b"hello world", b"%PDF-1.7", b"GIF89a" + b"\0" * 40, b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises((NotAnImageError, UndecodablePixelsError)):
        read_image(data, limits=LIMITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_picture_is_undecodable(kind):
    data = saved(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)), kind)
    with pytest.raises(UndecodablePixelsError):
        read_image(data[: len(data) // 2], limits=LIMITS)


def test_a_picture_beyond_the_limit_is_refused_by_its_header():
    bomb = saved(Image.new("1", (9_000, 9_000)))
    assert len(bomb) < 100_000
    with pytest.raises(OversizedPixelsError, match="81000000 pixels"):
        read_image(bomb, limits=LIMITS)
