"""The same stored values in many transfer syntaxes, by encoders that are not our decoders where one is at hand."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import rle.utils
from pydicom import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from synthetic_images import compressed, part10

from shared.pixels.codecs import DEFLATED_IMAGE_FRAME, ENCAPSULATED_UNCOMPRESSED

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def _deflated(pixels: np.ndarray) -> bytes:
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(pixels.tobytes()) + deflater.flush()


def _rle(pixels: np.ndarray) -> bytes:
    rows, columns = pixels.shape[:2]
    return rle.utils.encode_pixel_data(
        pixels.tobytes(),
        rows=rows,
        columns=columns,
        samples_per_pixel=pixels[0, 0].size,
        bits_allocated=8 * pixels.dtype.itemsize,
        byteorder="<",
    )


def _lossless_jpeg(predictor: int, space: str = "rgb") -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        spaces = {"colorspace": space, "outcolorspace": space} if pixels.ndim == 3 else {}
        bits = 8 * pixels.dtype.itemsize
        return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits, **spaces))

    return encode


def _jpeg_2000(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k", mct=pixels.ndim == 3))


def _high_throughput(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))


ENCODERS: dict[UID, Callable[[np.ndarray], bytes]] = {
    RLELossless: _rle,
    JPEGLossless: _lossless_jpeg(6),
    JPEGLosslessSV1: _lossless_jpeg(1),
    JPEGLSLossless: lambda pixels: bytes(imagecodecs.jpegls_encode(pixels)),
    JPEGLSNearLossless: lambda pixels: bytes(imagecodecs.jpegls_encode(pixels, level=0)),
    JPEG2000Lossless: _jpeg_2000,
    JPEG2000: _jpeg_2000,
    JPEG2000MCLossless: _jpeg_2000,
    JPEG2000MC: _jpeg_2000,
    HTJ2KLossless: _high_throughput,
    HTJ2KLosslessRPCL: _high_throughput,
    HTJ2K: _high_throughput,
    DEFLATED_IMAGE_FRAME: _deflated,
    ENCAPSULATED_UNCOMPRESSED: lambda pixels: pixels.tobytes(),
}
"""Of one frame, without loss."""
SIGNED = frozenset((RLELossless, JPEG2000Lossless, HTJ2KLossless, DEFLATED_IMAGE_FRAME, ENCAPSULATED_UNCOMPRESSED))
"""Whose code streams can say that values are signed, or say nothing of values."""


def encoded(dataset: Dataset, pixels: np.ndarray, syntax: UID) -> bytes:
    """The object's file with `pixels`, (N, H, W) or (N, H, W, 3), encoded in `syntax`."""
    if syntax in NATIVE:
        return part10(dataset, syntax)
    encode = ENCODERS[syntax]
    if syntax in (JPEGLossless, JPEGLosslessSV1) and dataset.PhotometricInterpretation == "YBR_FULL":
        encode = _lossless_jpeg(1, "ycbcr")
    words = pixels
    if pixels.dtype.kind == "i" and syntax not in SIGNED:  # these hold the same bits as unsigned values
        words = pixels.view(f"u{pixels.dtype.itemsize}")
        if dataset.BitsStored < dataset.BitsAllocated:
            words = words & (2**dataset.BitsStored - 1)
    streams = [encode(np.ascontiguousarray(frame)) for frame in words]
    if syntax != DEFLATED_IMAGE_FRAME:
        return compressed(dataset, syntax, streams)
    # pydicom does not know this one, and so does not write it.
    data = compressed(dataset, ENCAPSULATED_UNCOMPRESSED, streams)
    return data.replace(ENCAPSULATED_UNCOMPRESSED.encode(), syntax.encode() + b"\0", 1)


def converted_by(command: list[str], data: bytes, folder: Path) -> bytes:
    """The object as a program writes it."""
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(data)
    subprocess.run([*command, source, target], check=True, capture_output=True, timeout=60)
    return target.read_bytes()
