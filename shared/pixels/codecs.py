"""Compressed frames to stored values, each transfer syntax by the decoder that measured best.

`python -m bench.embedder.decoders` has the measurements. imagecodecs releases the GIL and gives the same stored
values as pydicom's own decoders. Where it refuses a JPEG frame, pydicom's decoders have their say.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from shared.errors import OversizedPixelsError, UndecodablePixelsError
from shared.pixels.codestream import CodeStream, read_codestream
from shared.pixels.image_pixel import RGB_NAMES, YBR_FULL_NAMES, ImagePixel
from shared.pixels.limits import PixelLimits
from shared.pixels.native import native_frame, used_bits

DEFLATED_IMAGE_FRAME: Final = UID("1.2.840.10008.1.2.8.1")
ENCAPSULATED_UNCOMPRESSED: Final = UID("1.2.840.10008.1.2.1.98")
_JPEG: Final = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
_JPEG_LS: Final = (JPEGLSLossless, JPEGLSNearLossless)
_JPEG_2000: Final = (JPEG2000Lossless, JPEG2000, JPEG2000MCLossless, JPEG2000MC)
_HTJ2K: Final = (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
_RGB_IDS: Final = (tuple(b"RGB"), tuple(b"rgb"))

Decoded = tuple[NDArray[Any], str]
"""(H, W) or (H, W, 3) stored values, and their photometric interpretation."""
Decoder = Callable[[bytes, ImagePixel, CodeStream], Decoded]


def decode_frame(encoded: bytes, syntax: UID, image: ImagePixel, limits: PixelLimits) -> Decoded:
    """Stored values of one compressed frame.

    Args:
        encoded: Its code stream, fragments joined.
        syntax: The transfer syntax.
        image: What the data set says of it.
        limits: Checked by the code stream's own header, before it is decoded.

    Raises:
        OversizedPixelsError: the code stream claims more than the limits allow.
        UndecodablePixelsError: it is damaged, contradicts the data set, or no decoder is known.
    """
    if syntax == RLELossless:
        return _rle(encoded, image), image.photometric
    if syntax in (DEFLATED_IMAGE_FRAME, ENCAPSULATED_UNCOMPRESSED):
        raw = _inflated(encoded, image) if syntax == DEFLATED_IMAGE_FRAME else encoded
        return native_frame(memoryview(raw), image, 1, is_little_endian=True), image.photometric
    decoder = DECODERS.get(syntax)
    if decoder is None:
        raise UndecodablePixelsError("no decoder for this transfer syntax")
    stream = _checked(read_codestream(encoded), image, limits)
    try:
        pixels, photometric = decoder(encoded, image, stream)
    # imagecodecs raises a class of its own for each codec, derived from RuntimeError, and ValueError.
    except (RuntimeError, ValueError):
        if syntax not in _JPEG:  # pydicom has the same libraries for the others, or takes seconds to refuse
            raise
        pixels, photometric = _by_pydicom(encoded, syntax, image)
    shape = (image.rows, image.columns, 3)[: 2 if image.samples == 1 else 3]
    if pixels.shape != shape:
        raise UndecodablePixelsError(f"decoded to an array of {pixels.ndim} dimensions, not of the image's shape")
    return pixels, photometric


def _checked(stream: CodeStream | None, image: ImagePixel, limits: PixelLimits) -> CodeStream:
    if stream is None:
        raise UndecodablePixelsError("the compressed frame is no code stream that names its size")
    size = max(4, -(-stream.precision // 8))
    limits.check(rows=stream.rows, columns=stream.columns, bytes_per_pixel=size * stream.components)
    if (stream.rows, stream.columns) != (image.rows, image.columns):
        raise UndecodablePixelsError(
            f"the compressed image is {stream.rows} x {stream.columns}, "
            f"the data set says {image.rows} x {image.columns}"
        )
    if stream.components != image.samples:
        raise UndecodablePixelsError(
            f"the compressed image has {stream.components} samples per pixel, the data set says {image.samples}"
        )
    if stream.needs_part_2:
        raise UndecodablePixelsError("the code stream needs extensions of JPEG 2000 Part 2")
    return stream


def _jpeg(encoded: bytes, image: ImagePixel, stream: CodeStream) -> Decoded:
    if image.samples == 1:
        return _represented(imagecodecs.jpeg8_decode(encoded), image, image.stored), image.photometric
    # As PS3.5 section 8.2.1 and JFIF have it; the data set is believed where the code stream is silent.
    is_rgb = stream.component_ids in _RGB_IDS or (image.photometric in RGB_NAMES and not stream.is_jfif)
    if not is_rgb and image.photometric in (*YBR_FULL_NAMES, *RGB_NAMES):
        return imagecodecs.jpeg8_decode(encoded, colorspace="ycbcr", outcolorspace="rgb"), "RGB"
    # The same colour space in and out: no transform.
    return imagecodecs.jpeg8_decode(encoded, colorspace="ycbcr", outcolorspace="ycbcr"), (
        "RGB" if is_rgb else image.photometric
    )


def _jpeg_lossless(encoded: bytes, image: ImagePixel, stream: CodeStream) -> Decoded:
    if image.samples == 1:
        return _jpeg(encoded, image, stream)
    # jpeg8_decode (libjpeg-turbo 3.1.3) is faster, but gives wrong values of lossless YCbCr; ljpeg_decode, also
    # faster, crashes on damaged code streams.
    pixels = imagecodecs.jpegsof3_decode(encoded)
    if stream.component_ids in _RGB_IDS:
        return pixels, "RGB"
    return pixels, "YBR_FULL" if stream.is_jfif and image.photometric in RGB_NAMES else image.photometric


def _jpeg_ls(encoded: bytes, image: ImagePixel, stream: CodeStream) -> Decoded:
    pixels = imagecodecs.jpegls_decode(encoded)
    return _represented(pixels, image, stream.precision), image.photometric


def _jpeg_2000(encoded: bytes, image: ImagePixel, stream: CodeStream) -> Decoded:
    pixels = imagecodecs.jpeg2k_decode(encoded, numthreads=1)
    return _represented(pixels, image, stream.precision), image.photometric


def _htj2k(encoded: bytes, image: ImagePixel, stream: CodeStream) -> Decoded:
    try:
        pixels = imagecodecs.htj2k_decode(encoded)
    except imagecodecs.Htj2kError:
        pixels = imagecodecs.jpeg2k_decode(encoded, numthreads=1)  # also knows the rarer forms, at twice the time
    return _represented(pixels, image, stream.precision), image.photometric


DECODERS: Final[Mapping[UID, Decoder]] = {
    JPEGBaseline8Bit: _jpeg,
    JPEGExtended12Bit: _jpeg,
    JPEGLossless: _jpeg_lossless,
    JPEGLosslessSV1: _jpeg_lossless,
    **dict.fromkeys(_JPEG_LS, _jpeg_ls),
    **dict.fromkeys(_JPEG_2000, _jpeg_2000),
    **dict.fromkeys(_HTJ2K, _htj2k),
}
"""Of each transfer syntax whose frames are code streams with a header of their own."""


def _rle(encoded: bytes, image: ImagePixel) -> NDArray[Any]:
    """PS3.5 annex G: a plane of bytes for each byte of each sample, so colour by plane."""
    if image.allocated == 1:
        raise UndecodablePixelsError("1-bit pixels in RLE are not supported")
    size = image.allocated // 8
    out = bytearray(image.rows * image.columns * image.samples * size)
    imagecodecs.dicomrle_decode(encoded, np.dtype(f"<u{size}"), out=out)
    values = np.frombuffer(out, f"<{'i' if image.is_signed else 'u'}{size}")
    if image.samples == 1:
        return used_bits(values.reshape(image.rows, image.columns), image)
    return used_bits(np.moveaxis(values.reshape(image.samples, image.rows, image.columns), 0, -1), image)


def _inflated(encoded: bytes, image: ImagePixel) -> bytes:
    """PS3.5 section A.4.12."""
    expected = -(-image.rows * image.columns * image.samples * image.allocated // 8)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    raw = inflater.decompress(encoded, expected + 2)
    if len(raw) > expected + 1:
        raise OversizedPixelsError("the frame inflates beyond its size")
    return raw


def _represented(pixels: NDArray[Any], image: ImagePixel, precision: int) -> NDArray[Any]:
    """Values in the signedness that Pixel Representation gives, which code streams of `precision` bits often lack."""
    kind = "i" if image.is_signed else "u"
    if pixels.dtype.kind == kind:
        return pixels
    shift = 8 * pixels.dtype.itemsize - min(precision, image.stored)
    viewed = np.ascontiguousarray(pixels).view(f"{kind}{pixels.dtype.itemsize}")
    shifted: NDArray[Any] = np.right_shift(np.left_shift(viewed, shift), shift) if shift > 0 else viewed
    return shifted


def _by_pydicom(encoded: bytes, syntax: UID, image: ImagePixel) -> Decoded:
    layout: dict[str, Any] = {
        "number_of_frames": 1,
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples,
        "planar_configuration": int(image.is_planar),
        "bits_allocated": image.allocated,
        "bits_stored": image.stored,
        "pixel_representation": int(image.is_signed),
        "photometric_interpretation": image.photometric,
        "pixel_keyword": image.keyword,
    }
    pixels, described = get_decoder(syntax).as_array(encapsulate([encoded]), index=0, **layout)
    return pixels, str(described["photometric_interpretation"])
