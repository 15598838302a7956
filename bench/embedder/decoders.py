"""Every decoder that could serve a transfer syntax, timed on one slice: why `shared.pixels.codecs` has its choice.

`python -m bench.embedder.decoders [--json FILE]`. Times are process CPU milliseconds a frame, the best of several
rounds, of the stored values alone; compare those of one run. All decoders of a lossless syntax must give the same
values, of a lossy one values within 1 of pydicom's own choice.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from shared.pixels.codecs import decode_frame
from shared.pixels.image_pixel import ImagePixel
from shared.pixels.limits import PixelLimits
from shared.pixels.native import native_frame

SIDE_PX: Final = 512
ROUNDS: Final = 5
Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """One decoder of one transfer syntax.

    Attributes:
        cpu_ms: Process CPU time of a frame.
        largest_difference: Of its stored values to the first decoder's; None if it failed.
        is_chosen: The one that Similis uses first.
        free_share: The share of the decoding time in which another thread could run: what is left of 1 holds the
            interpreter's lock.
    """

    syntax: str
    decoder: str
    cpu_ms: float | None
    largest_difference: int | None
    is_chosen: bool
    free_share: float | None


def slice_16_bit(seed: int = 0) -> Pixels:
    """(512, 512) uint16: smooth shapes and noise of a few grey levels, values of 12 bits, as in a CT slice."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    smooth = 1000 + 800 * np.sin(columns / 40) * np.cos(rows / 30)
    noise = np.random.default_rng(seed).normal(0, 20, (SIDE_PX, SIDE_PX))
    return np.asarray(np.clip(smooth + noise, 0, 4095), np.uint16)


def layout(pixels: Pixels, stored: int) -> ImagePixel:
    """The Image Pixel module of an unsigned grey frame."""
    allocated = 8 * pixels.dtype.itemsize
    return ImagePixel(
        keyword="PixelData",
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        frames=1,
        samples=1,
        allocated=allocated,
        stored=stored,
        high_bit=stored - 1,
        is_signed=False,
        is_planar=False,
        photometric="MONOCHROME2",
    )


def by_pydicom(syntax: UID, encoded: bytes, image: ImagePixel, plugin: str = "") -> Pixels:
    """pydicom's array of the frame, by one of its plugins; by default its own choice."""
    options: dict[str, Any] = {
        "rows": image.rows,
        "columns": image.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": image.allocated,
        "bits_stored": image.stored,
        "pixel_representation": 0,
        "photometric_interpretation": image.photometric,
        "pixel_keyword": "PixelData",
        "decoding_plugin": plugin,
    }
    source = encapsulate([encoded]) if syntax.is_encapsulated else encoded
    return np.asarray(get_decoder(syntax).as_array(source, index=0, **options)[0])


def samples() -> Mapping[UID, tuple[bytes, ImagePixel]]:
    """The same slice in each transfer syntax; in 8 bits where a syntax holds no more."""
    pixels = slice_16_bit()
    narrow = (pixels >> 4).astype(np.uint8)
    wide, deep = layout(pixels, 16), layout(pixels, 12)
    rle = get_encoder(RLELossless).encode(
        pixels,
        rows=SIDE_PX,
        columns=SIDE_PX,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=0,
        number_of_frames=1,
    )
    return {
        ExplicitVRLittleEndian: (pixels.tobytes(), wide),
        RLELossless: (bytes(rle), wide),
        JPEGBaseline8Bit: (bytes(imagecodecs.jpeg8_encode(narrow, level=90)), layout(narrow, 8)),
        JPEGExtended12Bit: (bytes(imagecodecs.jpeg8_encode(pixels, level=90, bitspersample=12)), deep),
        JPEGLosslessSV1: (
            bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=16)),
            wide,
        ),
        JPEGLSLossless: (bytes(imagecodecs.jpegls_encode(pixels)), wide),
        JPEG2000Lossless: (bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k")), wide),
        HTJ2KLossless: (bytes(imagecodecs.htj2k_encode(pixels, reversible=True)), wide),
    }


def candidates(syntax: UID, encoded: bytes, image: ImagePixel) -> dict[str, Callable[[], Pixels]]:
    """What could decode the frame, the choice of Similis first, then pydicom's own."""
    found: dict[str, Callable[[], Pixels]] = {}
    if not syntax.is_encapsulated:
        view = memoryview(encoded)
        found["similis: a view of the bytes"] = lambda: native_frame(view, image, 1, is_little_endian=True)
        found["pydicom"] = lambda: by_pydicom(syntax, encoded, image)
        return found
    found["similis"] = lambda: decode_frame(encoded, syntax, image, PixelLimits())[0]
    for name, function in _DIRECT.get(syntax, {}).items():
        found[f"imagecodecs.{name}"] = lambda function=function: function(encoded)  # type: ignore[misc]
    found["pydicom's own choice"] = lambda: by_pydicom(syntax, encoded, image)
    for plugin in get_decoder(syntax).available_plugins:
        found[f"pydicom: {plugin}"] = lambda plugin=plugin: by_pydicom(syntax, encoded, image, plugin)  # type: ignore[misc]
    return found


_JPEG_2000 = {"jpeg2k_decode": imagecodecs.jpeg2k_decode}
_DIRECT: Final[Mapping[UID, Mapping[str, Callable[[bytes], Any]]]] = {
    RLELossless: {
        "dicomrle_decode": lambda encoded: np.frombuffer(imagecodecs.dicomrle_decode(encoded, np.dtype("<u2")), "<u2")
    },
    JPEGBaseline8Bit: {"jpeg8_decode": imagecodecs.jpeg8_decode},
    JPEGExtended12Bit: {"jpeg8_decode": imagecodecs.jpeg8_decode},
    JPEGLosslessSV1: {
        "jpeg8_decode": imagecodecs.jpeg8_decode,
        "ljpeg_decode": imagecodecs.ljpeg_decode,
        "jpegsof3_decode": imagecodecs.jpegsof3_decode,
    },
    JPEGLSLossless: {"jpegls_decode": imagecodecs.jpegls_decode},
    JPEG2000Lossless: _JPEG_2000,
    HTJ2KLossless: {"htj2k_decode": imagecodecs.htj2k_decode, **_JPEG_2000},
}


def cpu_ms(function: Callable[[], Pixels]) -> float:
    """Process CPU time of one call: the best of several rounds of at least 20 ms."""
    function()
    best = float("inf")
    for _ in range(ROUNDS):
        calls, started = 0, time.process_time()
        while (spent := time.process_time() - started) < 0.02:
            function()
            calls += 1
        best = min(best, spent / calls)
    return 1000 * best


def free_share(function: Callable[[], Pixels], seconds: float = 0.4) -> float:
    """How much of the decoding time leaves the interpreter's lock to others: 1 less the waits of another thread."""
    waits: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        while not is_over.wait(0.0005):
            now = time.perf_counter()
            waits.append(now - last - 0.0005)
            last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        function()
    is_over.set()
    watcher.join()
    return max(0.0, 1.0 - sum(wait for wait in waits if wait > 0.0003) / spent)


def measure() -> list[Timing]:
    """Every candidate of every transfer syntax."""
    timings = []
    for syntax, (encoded, image) in samples().items():
        reference: Pixels | None = None
        for name, function in candidates(syntax, encoded, image).items():
            is_chosen = name.startswith("similis")
            try:
                pixels = np.asarray(function()).reshape(image.rows, image.columns)
            except Exception:  # noqa: BLE001  # whatever a decoder raises, it cannot serve this syntax
                timings.append(Timing(syntax.name, name, None, None, is_chosen, None))
                continue
            reference = pixels if reference is None else reference
            difference = int(np.abs(pixels.astype(np.int64) - reference.astype(np.int64)).max())
            timings.append(Timing(syntax.name, name, cpu_ms(function), difference, is_chosen, free_share(function)))
    return timings


def report(timings: list[Timing]) -> str:
    """A Markdown table."""
    lines = [
        "| transfer syntax | decoder | CPU ms a frame | largest difference | lock left free |",
        "|---|---|---|---|---|",
    ]
    for timing in timings:
        name = f"**{timing.decoder}**" if timing.is_chosen else timing.decoder
        if timing.cpu_ms is None:
            lines.append(f"| {timing.syntax} | {name} | cannot | | |")
            continue
        lines.append(
            f"| {timing.syntax} | {name} | {timing.cpu_ms:.2f} | {timing.largest_difference} "
            f"| {timing.free_share:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the timings here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    timings = measure()
    sys.stdout.write(report(timings) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=1) + "\n")


if __name__ == "__main__":
    main()
