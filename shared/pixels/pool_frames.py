"""From an archived object to squares ready for the model: what is asked of a decoder, and what it gives.

`DecodeInProcess` does the work in the caller's thread; `shared.pixels.pool` does the same in worker processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.archive.integrity import check_sha256
from shared.errors import ArchiveObjectMissingError, ArchiveUnavailableError, TransientError
from shared.pixels.decode import read_each
from shared.pixels.frame import Frame, FrameError
from shared.pixels.header import read_header
from shared.pixels.image_file import read_image
from shared.pixels.limits import PixelLimits
from shared.vision.transform import Letterbox, letterbox_box, letterboxed

# Reasons of a FrameError that only a worker process knows; the others are the names of errors.
DIED: Final = "DecoderDied"
TIMED_OUT: Final = "DecodeTimedOut"


class DecodersUnavailableError(TransientError):
    """The decode workers do not start, or the pool is closed."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """An object and its frames to decode.

    Attributes:
        key: Its archive key, for messages.
        source: Where its DICOM Part-10 bytes lie, or the bytes.
        sha256: What they must hash to (hex); None: nothing in particular.
        frame_numbers: From 1, ascending.
        is_picture: They are a PNG or JPEG file, whose only frame is 1.
        max_decoded_bytes: A lower limit than the decoder's own for all frames together.
        evenly: Instead of `frame_numbers`, which are none then: at most so many of the DICOM object's frames, evenly.
    """

    key: str
    source: Path | bytes
    sha256: str | None
    frame_numbers: tuple[int, ...]
    is_picture: bool = False
    max_decoded_bytes: int | None = None
    evenly: int | None = None

    def limits(self, most: PixelLimits) -> PixelLimits:
        """What this object may cost."""
        if self.max_decoded_bytes is None:
            return most
        return replace(most, max_decoded_bytes=min(self.max_decoded_bytes, most.max_decoded_bytes))


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A decoded and windowed frame: letterboxed into a square, or whole where the decoder has no size.

    Attributes:
        number: Its frame number within the SOP instance, from 1.
        square: float32 in [0, 1], (S, S) for grey or (S, S, 3) for RGB; whole: (H, W) or (H, W, 3).
        content: Where the frame lies in it.
        notes: As of `Frame`.
        seconds: What decoding and resampling took.
        pixel_aspect: Height of a pixel divided by its width.
    """

    number: int
    square: NDArray[np.float32]
    content: Letterbox
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    pixel_aspect: float = 1.0


DecodedObject = Iterator[PreparedFrame | FrameError]
"""An object's frames in the order asked for; each is there or says why not.

To iterate raises what concerns the whole object:

    ArchiveObjectMissingError, ArchiveUnavailableError   its bytes cannot be read
    ArchiveObjectCorruptError                            they are not those of the manifest
    NotAnImageError, UndecodablePixelsError, OversizedPixelsError   as `read_each`
    DecodersUnavailableError                             the pool is closed, or its workers do not start
"""


class FrameDecoder(Protocol):
    """What turns archived objects into squares."""

    def objects(self, requests: Iterable[DecodeRequest]) -> Generator[DecodedObject, None, None]:
        """The decoded objects, one for each request and in their order. Use up each before the next.

        `requests` is read a few ahead. Closing the iterator ends the work under way.
        """

    def close(self) -> None:
        """Let go of what the decoder holds; readers that still wait get a DecodersUnavailableError."""


@dataclass(frozen=True, slots=True)
class DecodeInProcess:
    """Decodes in the caller's thread: no time-out, and a decoder that crashes takes the process along.

    Attributes:
        size_px: Side of the squares; None: frames stay whole.
        limits: What one object may cost.
    """

    size_px: int | None
    limits: PixelLimits

    def objects(self, requests: Iterable[DecodeRequest]) -> Generator[DecodedObject, None, None]:
        """As `FrameDecoder.objects`."""
        return (self._object(request) for request in requests)

    def close(self) -> None:
        """Nothing."""

    def _object(self, request: DecodeRequest) -> DecodedObject:
        yield from prepared(request, read_source(request), self.size_px, self.limits)


def read_source(request: DecodeRequest) -> bytes:
    """The object's bytes, checked.

    Raises:
        ArchiveObjectMissingError, ArchiveUnavailableError: they cannot be read.
        ArchiveObjectCorruptError: they are not those of the manifest.
    """
    data = request.source
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ArchiveObjectMissingError(f"nothing is archived at {request.key}") from None
        except OSError as error:
            raise ArchiveUnavailableError(f"cannot read {request.key}: {error.strerror}") from None
    if request.sha256 is not None:
        check_sha256(request.key, hashlib.sha256(data).hexdigest(), request.sha256)
    return data


def prepared(request: DecodeRequest, data: bytes, size_px: int | None, limits: PixelLimits) -> DecodedObject:
    """What is asked for of the object in `data`; raises as `read_each` and `read_image`."""
    limits = request.limits(limits)
    if request.is_picture:
        started = time.perf_counter()
        yield _prepared(read_image(data, limits=limits), size_px, started)
    else:
        yield from decoded(data, numbers_of(request, data, limits), size_px, limits)


def numbers_of(request: DecodeRequest, data: bytes, limits: PixelLimits) -> tuple[int, ...]:
    """The frames to decode; raises as `read_header` where the object is asked how many it has."""
    if request.evenly is None:
        return request.frame_numbers
    count = read_header(data, limits=limits).number_of_frames
    spread = np.linspace(1, count, num=min(count, request.evenly)).round().astype(int)
    return tuple(np.unique(spread).tolist())


def decoded(data: bytes, frame_numbers: tuple[int, ...], size_px: int | None, limits: PixelLimits) -> DecodedObject:
    """The frames of the DICOM object in `data`, one at a time; raises as `read_each`."""
    started = time.perf_counter()
    for frame in read_each(data, frame_numbers, limits=limits):
        yield frame if isinstance(frame, FrameError) else _prepared(frame, size_px, started)
        started = time.perf_counter()


def _prepared(frame: Frame, size_px: int | None, started: float) -> PreparedFrame:
    height, width = frame.pixels.shape[:2]
    if size_px is None:
        square, content = frame.pixels, Letterbox(0, 0, height, width)
    else:
        square = letterboxed(frame, size_px)
        content = letterbox_box(height, width, frame.pixel_aspect, size_px)
    seconds = time.perf_counter() - started
    return PreparedFrame(frame.number, square, content, frame.notes, seconds, frame.pixel_aspect)
